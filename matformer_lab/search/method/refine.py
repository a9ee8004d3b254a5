"""From a scan to one slice for each budget: propose, measure, learn, and choose among the best.

Each round the surrogate is fitted to everything measured so far, the nearest slices counting most,
and the solver proposes its best few; what they measure goes into the next round. Once that brings
nothing better, the best slice so far is scanned around, one layer a width narrower or wider, and
the rounds go on. The best then run a race on further items (successive halving: Jamieson &
Talwalkar 2016, arXiv:1502.07943), in which paired differences decide.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np

from matformer_lab.common.errors import InputError
from matformer_lab.search.measure import Measurements
from matformer_lab.search.method.budget import Budget
from matformer_lab.search.method.scan import thinned
from matformer_lab.search.method.solve import Cut, solve
from matformer_lab.search.method.space import Pattern, Space
from matformer_lab.search.method.surrogate import Surrogate, fit, near

A_ROUND: Final = 24
"""Proposals of a round, over all budgets: enough to keep a machine busy."""
FEWEST: Final = 3
MOST: Final = 8
"""Proposals of a budget in a round, at least and at most."""
_APART: Final = 2
"""In how many layers the proposals of a round differ at least."""
RACERS: Final = 4
"""Slices of a budget that go on to the second calibration set; half of them go on to the next."""
_PATIENCE: Final = 2
"""Rounds without a better slice after which a budget's search is over."""
_REACH: Final = 0.12
_FAR: Final = 0.4
"""Within which share of the way from the smallest to the widest slice others inform a budget: by
turns, as shares near a budget are the right ones and those from afar are more."""
_FIRST_NEAR: Final = 3
"""The first round with a near look: a scan alone has too little near any budget, and shares from so
little led astray (on `tiny`: rank correlation -0.1 with what was measured, 0.9 from afar)."""


@dataclass(frozen=True)
class Candidate:
    """A slice that was proposed for a budget and measured.

    Attributes:
        budget: The budget's name.
        pattern: The slice.
        predicted: Its objective by the surrogate that proposed it.
        measured: Its objective on the first calibration set.
        round: When it was proposed, from 0.
    """

    budget: str
    pattern: Pattern
    predicted: float
    measured: float
    round: int


@dataclass(frozen=True)
class Refined:
    """What the refinement found.

    Attributes:
        best: The slice of each budget, in the order of the budgets.
        candidates: Everything proposed and measured on the way.
        surrogates: The last one fitted for each budget.
    """

    best: tuple[Pattern, ...]
    candidates: tuple[Candidate, ...]
    surrogates: tuple[Surrogate, ...]


def refine(
    space: Space, budgets: Sequence[Budget], measured: Measurements, *, nested: bool = False
) -> Refined:
    """Find the best slice of each budget.

    Args:
        space: What may be chosen.
        budgets: From small to large where the results are nested.
        measured: The scan; what is measured here is added.
        nested: Whether each slice lies within the next one; the budgets are then solved together.

    Raises:
        InputError: When nothing was measured.
    """
    if not measured.found[0]:
        raise InputError(
            "nothing could be measured in the time that was given; raise `minutes` or `evaluations`"
        )
    groups = [tuple(budgets)] if nested else [(budget,) for budget in budgets]
    pursuits = [_Pursuit(space, group, measured, nested) for group in groups]
    kept = sum(_race_cost(len(group), len(measured.sets)) for group in groups)
    while active := [pursuit for pursuit in pursuits if not pursuit.over]:
        room = (measured.left - kept) // len(active)
        wanted = [pattern for pursuit in active for pattern in pursuit.propose(room, len(active))]
        there = measured.measure(wanted)  # together, so that they share passes
        for pursuit in active:
            pursuit.learn(there)
    surrogates = [models_for(space, group, measured.values) for group in groups]
    best = _race(space, groups, measured, nested, surrogates)
    candidates = sorted(
        (each for pursuit in pursuits for each in pursuit.proposed), key=lambda each: each.round
    )
    return Refined(tuple(best), tuple(candidates), tuple(chain.from_iterable(surrogates)))


def models_for(
    space: Space,
    budgets: Sequence[Budget],
    values: Mapping[Pattern, float],
    reach: float = _REACH,
) -> list[Surrogate]:
    """A surrogate for each budget, in which slices of about that size count most.

    Args:
        space: What may be chosen.
        budgets: For each a model.
        values: The objective of the slices measured so far.
        reach: Within which share of the way from the smallest to the widest slice they count.
    """
    models = []
    for budget in budgets:
        sizes = [budget.parameters.of(pattern) for pattern in values]
        whole = budget.parameters.of(space.full)
        least = budget.parameters.of(space.at(0))
        weights = near(sizes, target_size(space, budget), reach * (whole - least) or 1.0)
        models.append(fit(space, values, dict(zip(values, map(float, weights), strict=True))))
    return models


def target_size(space: Space, budget: Budget) -> int:
    """About how many effective parameters a slice of a budget has.

    Exactly the limit where that is in parameters; else as far between nothing and the widest slice
    as the limit is.
    """
    whole = budget.parameters.of(space.full)
    reached = []
    for limit in budget.limits:
        if limit.costs == budget.parameters:
            reached.append(limit.most)
            continue
        top, low = limit.costs.of(space.full), limit.costs.of(space.at(0))
        small = budget.parameters.of(space.at(0))
        share = (limit.most - low) / ((top - low) or 1)
        reached.append(round(small + share * (whole - small)))
    return min(reached)


class _Pursuit:
    """The rounds for one budget, or for all budgets of a nested family.

    All budgets' proposals of a round are measured together, and each learns from all of them.
    """

    def __init__(
        self, space: Space, group: Sequence[Budget], measured: Measurements, nested: bool
    ) -> None:
        self.proposed: list[Candidate] = []
        self.over = False
        self._space, self._group, self._measured, self._nested = space, group, measured, nested
        self._known: set[tuple[Pattern, ...]] = set()
        self._fresh: list[tuple[Pattern, ...]] = []
        self._models: list[Surrogate] = []
        self._round = self._idle = 0
        self._rescanned = False
        self._best = self._value()

    def propose(self, room: int, active: int) -> list[Pattern]:
        """What to measure in the next round.

        Args:
            room: At most so many evaluations.
            active: How many pursuits take part in the round.
        """
        self._fresh = []
        if room < len(self._group) or (self._idle >= _PATIENCE and self._rescanned):
            self.over = True
            return []
        if self._idle >= _PATIENCE:
            self._rescanned = True
            runners = _runners(self._space, self._group, self._measured, self._nested)
            around = _around(self._space, runners[0] if runners else ())
            return thinned(around, room * 2 // 3)
        count = max(FEWEST, min(MOST, A_ROUND // active))
        self._fresh = self._solutions(min(count, room // len(self._group)))
        self.over = not self._fresh
        return [pattern for found in self._fresh for pattern in found]

    def learn(self, there: Collection[Pattern]) -> None:
        """Take note of what was measured of the proposals."""
        if self.over:
            return
        measured = self._measured.values
        self.proposed += [
            Candidate(budget.name, pattern, model.predict(pattern), measured[pattern], self._round)
            for found in self._fresh
            for budget, pattern, model in zip(self._group, found, self._models, strict=True)
            if pattern in there
        ]
        value = self._value()
        self._idle = 0 if value > self._best or not self._fresh else self._idle + 1
        self._round += bool(self._fresh)
        self._best = value

    def _solutions(self, count: int) -> list[tuple[Pattern, ...]]:
        """The best by surrogates that look near and far by turns."""
        reach = _REACH if self._round >= _FIRST_NEAR and self._round % 2 else _FAR
        self._models = models_for(self._space, self._group, self._measured.values, reach)
        values = [model.shares for model in self._models]
        cuts = [Cut(each, 1) for each in self._known]
        fresh: list[tuple[Pattern, ...]] = []
        for _ in range(count):
            found = solve(self._space, self._group, values, nested=self._nested, cuts=cuts)
            if found is None:
                break
            fresh.append(found)
            cuts.append(Cut(found, _APART))
        self._known.update(fresh)
        return fresh

    def _value(self) -> float:
        """The objective of the best measured slices within the budgets."""
        runners = _runners(self._space, self._group, self._measured, self._nested)
        return _worth(self._measured, runners[0], 1) if runners else -np.inf


def _around(space: Space, incumbents: Sequence[Pattern]) -> list[Pattern]:
    """One layer a width narrower or wider than in the best slices so far."""
    return [
        near
        for pattern in incumbents
        for direction in (1, -1)
        for near in space.steps(pattern, direction)
    ]


def _race_cost(budgets: int, sets: int) -> int:
    return budgets * sum(max(2, RACERS >> rung) for rung in range(sets - 1))


def _race(
    space: Space,
    groups: Sequence[Sequence[Budget]],
    measured: Measurements,
    nested: bool,
    surrogates: Sequence[Sequence[Surrogate]],
) -> list[Pattern]:
    """The best measured slices of all groups' budgets, by a race on further calibration sets."""
    races = [_runners(space, group, measured, nested)[:RACERS] for group in groups]
    for number in range(1, len(measured.sets)):
        wanted = [
            pattern for race in races if len(race) > 1 for runner in race for pattern in runner
        ]
        there = set(measured.measure(wanted, of=number))
        if not there.issuperset(wanted):
            break  # out of evaluations or time
        races = [_halved(measured, race, number + 1) if len(race) > 1 else race for race in races]
    best: list[Pattern] = []
    for group, race, models in zip(groups, races, surrogates, strict=True):
        if race:
            best += race[0]
            continue
        found = solve(space, group, [model.shares for model in models], nested=nested)
        assert found is not None, "budgets are checked before the search"
        best += found
    return best


def _halved(
    measured: Measurements, race: Sequence[tuple[Pattern, ...]], sets: int
) -> list[tuple[Pattern, ...]]:
    """The better half of a race by the first so many sets, the best first."""
    runners = sorted(race, key=lambda runner: -_worth(measured, runner, sets))
    return [
        runner
        for runner in runners[: max(2, len(runners) // 2)]
        if not _clearly_worse(measured, runner, runners[0], sets)
    ]


def _runners(
    space: Space, group: Sequence[Budget], measured: Measurements, nested: bool
) -> list[tuple[Pattern, ...]]:
    """Everything measured that is within the budgets, the best first."""
    values = measured.values
    allowed = [
        sorted(
            (each for each in values if budget.holds(each) and space.valid(each)),
            key=lambda pattern: -values[pattern],
        )
        for budget in group
    ]
    if not all(allowed):
        return []
    if not nested:
        return [(pattern,) for pattern in allowed[0]]
    return _families(allowed, values)


def _families(
    allowed: Sequence[Sequence[Pattern]], values: Mapping[Pattern, float]
) -> list[tuple[Pattern, ...]]:
    """Nested families of measured slices, the best first, by a beam from small to large."""
    beam: list[tuple[Pattern, ...]] = [()]
    for patterns in allowed:
        grown = [
            (*family, pattern)
            for family in beam
            for pattern in patterns
            if not family or within(family[-1], pattern)
        ]
        grown.sort(key=lambda family: -sum(values[pattern] for pattern in family))
        beam = grown[:200]
    return beam


def within(small: Pattern, large: Pattern) -> bool:
    """Whether a slice is contained in another one."""
    return all(a <= b for a, b in zip(small, large, strict=True))


def _worth(measured: Measurements, runner: Sequence[Pattern], sets: int) -> float:
    weights = measured.weights(sets)
    return sum(float(measured.items(pattern, sets) @ weights) for pattern in runner)


def _clearly_worse(
    measured: Measurements, runner: Sequence[Pattern], leader: Sequence[Pattern], sets: int
) -> bool:
    """Whether the leader is ahead by more than two standard errors of the paired difference."""
    if runner == leader:
        return False
    apart = [measured.difference(a, b, sets) for a, b in zip(leader, runner, strict=True)]
    mean = sum(each for each, _ in apart)
    error = sum(each**2 for _, each in apart) ** 0.5
    return bool(mean > 2 * error)

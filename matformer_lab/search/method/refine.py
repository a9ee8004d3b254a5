"""From a first design to one slice for each budget: propose, measure, learn, choose the best.

Each round the surrogate is fitted to everything measured so far, and its best few for each budget
are measured and taken into the next fit, until rounds bring nothing better. The best then run a
race on further items (successive halving: Jamieson & Talwalkar 2016, arXiv:1502.07943), in which
paired differences decide.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from matformer_lab.common.errors import InputError
from matformer_lab.search.measure import Measurements
from matformer_lab.search.method.budget import Budget
from matformer_lab.search.method.propose import best_by, climb, propose
from matformer_lab.search.method.space import Pattern, Space
from matformer_lab.search.method.surrogate import Surrogate, fit

A_ROUND: Final = 24
"""Proposals of a round, over all budgets: enough to keep a machine busy."""
FEWEST: Final = 3
MOST: Final = 8
"""Proposals of a budget in a round, at least and at most."""
_APART: Final = (6, 4, 2)
"""In how many layers the proposals of a round differ at least, by round: the first look wide."""
RACERS: Final = 6
"""Slices of a budget that go on to the second calibration set, at most; half of them go on to the
next."""
_RACE: Final = 5
"""One evaluation in so many is kept for the race."""
_REACH: Final = 0.25
"""In what share of the layers a proposal differs at most from one of the best slices so far."""
_FEWEST_LAYERS: Final = 4
"""In so many it may always differ."""
_PATIENCE: Final = 3
"""Rounds without a better slice after which a budget's search is over."""


@dataclass(frozen=True)
class Candidate:
    """A slice that was proposed for a budget, and measured only then.

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
        surrogate: The last one fitted.
    """

    best: tuple[Pattern, ...]
    candidates: tuple[Candidate, ...]
    surrogate: Surrogate


def refine(
    space: Space, budgets: Sequence[Budget], measured: Measurements, *, nested: bool = False
) -> Refined:
    """Find the best slice of each budget.

    Args:
        space: What may be chosen.
        budgets: From small to large where the results are nested.
        measured: The first design; what is measured here is added.
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
    racers = _racers(len(budgets), len(measured.sets), measured.limit // _RACE)
    kept = _race_cost(racers, len(budgets), len(measured.sets))
    while active := [pursuit for pursuit in pursuits if not pursuit.over]:
        room = (measured.left - kept) // len(active)
        model = fit(space, measured.values)
        wanted: dict[Pattern, None] = {}  # each by one budget, though it serves others too
        for pursuit in active:
            known = measured.values.keys() | wanted.keys()
            wanted |= dict.fromkeys(pursuit.propose(model, known, room, len(active)))
        there = measured.measure(tuple(wanted))  # together, so that they share passes
        for pursuit in active:
            pursuit.learn(model, there)
    model = fit(space, measured.values)
    best = _race(space, groups, measured, nested, model, racers)
    proposed = sorted((each for pursuit in pursuits for each in pursuit.proposed),
                      key=lambda each: each.round)  # fmt: skip
    return Refined(tuple(best), tuple(proposed), model)


def best_guess(
    space: Space,
    budgets: Sequence[Budget],
    model: Surrogate,
    values: Mapping[Pattern, float],
    *,
    nested: bool = False,
) -> tuple[Pattern, ...]:
    """The best slice of each budget by the surrogate alone.

    Args:
        space: What may be chosen.
        budgets: Checked before: each has slices.
        model: The surrogate.
        values: The objective of the slices measured so far, the best of which are where it begins.
        nested: Whether each slice lies within the next one.
    """
    start = _starts(space, budgets, values, nested)[0]
    found = best_by(space, budgets, model, start, nested=nested)
    assert found is not None, "budgets are checked before the search"
    if nested or space.uniform:
        return found
    return tuple(
        climb(budget, model, pattern, lambda _: True)
        for budget, pattern in zip(budgets, found, strict=True)
    )


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
        self._fresh: list[tuple[Pattern, ...]] = []
        self._known: Collection[Pattern] = ()
        self._round = self._idle = 0
        self._best = self._value()

    def propose(
        self, model: Surrogate, known: Collection[Pattern], room: int, active: int
    ) -> list[Pattern]:
        """What to measure in the next round.

        Args:
            model: Of everything measured so far.
            known: What is not to be proposed: measured, or proposed for another budget.
            room: At most so many evaluations.
            active: How many pursuits take part in the round.
        """
        self._fresh = []
        count = min(max(FEWEST, min(MOST, A_ROUND // active)), room // len(self._group))
        if count > 0 and self._idle < _PATIENCE:
            self._known = known
            self._fresh = propose(
                self._space,
                self._group,
                model,
                _starts(self._space, self._group, self._measured.values, self._nested)[:count],
                count=count,
                apart=_APART[min(self._round, len(_APART) - 1)],
                reach=max(_FEWEST_LAYERS, round(_REACH * self._space.text.num_hidden_layers)),
                known=known,
                nested=self._nested,
            )
        self.over = not self._fresh
        return [pattern for found in self._fresh for pattern in found]

    def learn(self, model: Surrogate, there: Collection[Pattern]) -> None:
        """Take note of what was measured of the proposals.

        Args:
            model: That they were proposed by.
            there: What was measured. What had been before is no test of the model.
        """
        if self.over:
            return
        measured = self._measured.values
        new = {
            pattern: budget.name
            for found in self._fresh
            for budget, pattern in zip(self._group, found, strict=True)
            if pattern in there and pattern not in self._known
        }
        self.proposed += [
            Candidate(name, pattern, model.predict(pattern), measured[pattern], self._round)
            for pattern, name in new.items()
        ]
        value = self._value()
        self._idle = 0 if value > self._best else self._idle + 1
        self._round += 1
        self._best = value

    def _value(self) -> float:
        """The objective of the best measured slices within the budgets."""
        runners = _runners(self._space, self._group, self._measured.values, self._nested)
        return _worth(self._measured, runners[0], 1) if runners else -np.inf


def _starts(
    space: Space, group: Sequence[Budget], values: Mapping[Pattern, float], nested: bool
) -> list[tuple[Pattern, ...]]:
    """Where to look around: the best measured slices; the middle where none is in the budget."""
    middle = space.at(space.widths // 2)
    return _runners(space, group, values, nested)[:MOST] or [(middle,) * len(group)]


def _racers(budgets: int, sets: int, most: int) -> int:
    """How many slices of each budget race, so that it takes at most so many evaluations."""
    for racers in range(RACERS, 1, -1):
        if _race_cost(racers, budgets, sets) <= most:
            return racers
    return 1


def _race_cost(racers: int, budgets: int, sets: int) -> int:
    if racers < 2:
        return 0
    return budgets * sum(max(2, racers >> rung) for rung in range(sets - 1))


def _race(
    space: Space,
    groups: Sequence[Sequence[Budget]],
    measured: Measurements,
    nested: bool,
    model: Surrogate,
    racers: int,
) -> list[Pattern]:
    """The best measured slices of all groups' budgets, by a race on further calibration sets."""
    races = [_runners(space, group, measured.values, nested)[:racers] for group in groups]
    for number in range(1, len(measured.sets)):
        wanted = [
            pattern for race in races if len(race) > 1 for runner in race for pattern in runner
        ]
        there = set(measured.measure(wanted, of=number))
        if not there.issuperset(wanted):
            break  # out of evaluations or time
        races = [_halved(measured, race, number + 1) if len(race) > 1 else race for race in races]
    best: list[Pattern] = []
    for group, race in zip(groups, races, strict=True):
        best += race[0] if race else best_guess(space, group, model, measured.values, nested=nested)
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
    space: Space, group: Sequence[Budget], values: Mapping[Pattern, float], nested: bool
) -> list[tuple[Pattern, ...]]:
    """Everything measured that is within the budgets, the best first."""
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

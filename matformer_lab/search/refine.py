"""From a scan to one slice for each budget: propose, measure, learn, and choose among the best.

Each round the surrogate is fitted to everything measured so far, the nearest slices counting most,
and the solver proposes its best few; what they measure goes into the next round. Once that brings
nothing better, the best slice so far is scanned around, one layer a width narrower or wider, and
the rounds go on. The best then run a race on further items (successive halving: Jamieson &
Talwalkar 2016, arXiv:1502.07943), in which paired differences decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from matformer_lab.common.errors import InputError
from matformer_lab.search.budget import Budget
from matformer_lab.search.measure import Measurements
from matformer_lab.search.scan import thinned
from matformer_lab.search.solve import Cut, solve
from matformer_lab.search.space import Pattern, Space
from matformer_lab.search.surrogate import Surrogate, fit, near

A_ROUND: Final = 6
"""Proposals of a round."""
_APART: Final = 2
"""In how many layers the proposals of a round differ at least."""
RACERS: Final = 4
"""Slices of a budget that go on to the second calibration set; half of them go on to the next."""
_PATIENCE: Final = 2
"""Rounds without a better slice after which a budget's search is over."""
_REACH: Final = 0.12
"""Within which share of the parent's layers slices inform each other about a budget."""


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
    best: list[Pattern] = []
    candidates: list[Candidate] = []
    surrogates: list[Surrogate] = []
    for number, group in enumerate(groups):
        share = measured.left // (len(groups) - number)
        race = _race_cost(len(group), len(measured.sets))
        stop = measured.left - max(0, share - race)
        proposed, models = _rounds(space, group, measured, nested, stop)
        candidates += proposed
        surrogates += models
        best += _race(space, group, measured, proposed, nested, models)
    return Refined(tuple(best), tuple(candidates), tuple(surrogates))


def models_for(
    space: Space, budgets: Sequence[Budget], values: Mapping[Pattern, float]
) -> list[Surrogate]:
    """A surrogate for each budget, in which slices of about that size count most."""
    models = []
    for budget in budgets:
        sizes = [budget.parameters.of(pattern) for pattern in values]
        whole = budget.parameters.of(space.full)
        least = budget.parameters.of(space.at(0))
        weights = near(sizes, target_size(space, budget), _REACH * (whole - least) or 1.0)
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


def _rounds(
    space: Space, group: Sequence[Budget], measured: Measurements, nested: bool, stop: int
) -> tuple[list[Candidate], list[Surrogate]]:
    """Propose and measure until that brings nothing, or only `stop` evaluations are left."""
    proposed: list[Candidate] = []
    known: set[tuple[Pattern, ...]] = set()
    round_ = idle = 0
    rescanned = False
    best = _best(space, group, measured, nested)
    while True:
        models = models_for(space, group, measured.values)
        room = (measured.left - stop) // len(group)
        if room < 1 or (idle >= _PATIENCE and rescanned):
            return proposed, models
        if idle >= _PATIENCE:
            rescanned, idle = True, 0
            around = _around(space, (_runners(space, group, measured, nested) or [()])[0])
            measured.measure(thinned(around, (measured.left - stop) * 2 // 3))
            continue
        cuts = [Cut(each, 1) for each in known]
        fresh: list[tuple[Pattern, ...]] = []
        for _ in range(min(A_ROUND, room)):
            found = solve(
                space, group, [model.shares for model in models], nested=nested, cuts=cuts
            )
            if found is None:
                break
            fresh.append(found)
            cuts.append(Cut(found, _APART))
        known.update(fresh)
        if not fresh:
            return proposed, models
        there = set(measured.measure([pattern for found in fresh for pattern in found]))
        values = measured.values
        proposed += [
            Candidate(budget.name, pattern, model.predict(pattern), values[pattern], round_)
            for found in fresh
            for budget, pattern, model in zip(group, found, models, strict=True)
            if pattern in there
        ]
        round_ += 1
        now = _best(space, group, measured, nested)
        idle = 0 if now > best else idle + 1
        best = now


def _around(space: Space, incumbents: Sequence[Pattern]) -> list[Pattern]:
    """One layer a width narrower or wider than in the best slices so far."""
    return [
        near
        for pattern in incumbents
        for direction in (1, -1)
        for near in space.steps(pattern, direction)
    ]


def _best(space: Space, group: Sequence[Budget], measured: Measurements, nested: bool) -> float:
    """The objective of the best measured slices of a group's budgets."""
    runners = _runners(space, group, measured, nested)
    return _worth(measured, runners[0], 1) if runners else -np.inf


def _race_cost(budgets: int, sets: int) -> int:
    return budgets * sum(max(2, RACERS >> rung) for rung in range(sets - 1))


def _race(
    space: Space,
    group: Sequence[Budget],
    measured: Measurements,
    proposed: Sequence[Candidate],
    nested: bool,
    models: Sequence[Surrogate],
) -> list[Pattern]:
    """The best measured slices of a group's budgets, by a race on further calibration sets."""
    runners = _runners(space, group, measured, nested)
    if not runners:
        found = solve(space, group, [model.shares for model in models], nested=nested)
        assert found is not None, "budgets are checked before the search"
        return list(found)
    runners = runners[:RACERS]
    for number in range(1, len(measured.sets)):
        if len(runners) == 1:
            break
        wanted = [pattern for runner in runners for pattern in runner]
        there = set(measured.measure(wanted, of=number))
        if not there.issuperset(wanted):
            break  # out of evaluations or time
        runners.sort(key=lambda runner: -_worth(measured, runner, number + 1))
        leader = runners[0]
        runners = [
            runner
            for runner in runners[: max(2, len(runners) // 2)]
            if not _clearly_worse(measured, runner, leader, number + 1)
        ]
    return list(runners[0])


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

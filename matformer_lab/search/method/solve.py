"""The best slices by a sum of shares, exactly: an integer program over (layer, width) choices.

Puzzle (Bercovich et al. 2024, arXiv:2411.19146) chooses blocks by the same kind of program. HiGHS
solves it through `scipy.optimize.milp`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Final, NamedTuple

import numpy as np

from matformer_lab.common.errors import InputError
from matformer_lab.search.method.budget import Budget
from matformer_lab.search.method.costs import LayerCosts
from matformer_lab.search.method.space import Pattern, Space

Values = tuple[Mapping[int, float], ...]
"""What each choice is worth, by layer and width: larger is better."""

_SECONDS: Final = 5.0
"""Of one program, after which the best solution so far counts; most take 0.02."""
_LARGEST_ENTRY: Final = 1000.0
"""Of a row that limits a size: with larger ones, the solver's tolerance would be parameters."""


class Cut(NamedTuple):
    """Slices, and a distance from them.

    Attributes:
        patterns: One for each budget.
        layers: In how many layers to differ from them, over all of them.
    """

    patterns: tuple[Pattern, ...]
    layers: int


def solve(
    space: Space,
    budgets: Sequence[Budget],
    values: Sequence[Values],
    *,
    nested: bool = False,
    cuts: Sequence[Cut] = (),
    near: Cut | None = None,
) -> tuple[Pattern, ...] | None:
    """The slices that are worth most in sum, one within each budget.

    Args:
        space: What may be chosen.
        budgets: From small to large where the results are nested.
        values: What the choices are worth, for each budget.
        nested: Whether no layer is wider in a slice than in the next one.
        cuts: Solutions to stay away from.
        near: Slices to stay near to: to differ from in at most so many layers.

    Returns:
        A slice for each budget; None where there are none.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    program = _Program(space, budgets, nested)
    for cut in cuts:
        program.stay_away(cut)
    if near is not None:
        program.stay_near(near)
    worth = np.zeros(program.size)
    for (target, layer, width), place in program.places.items():
        worth[place] = -values[target][layer][width]
    rows = csr_array(
        (program.entries, (program.rows, program.columns)), shape=(len(program.lower), program.size)
    )
    found = milp(
        worth / (np.abs(worth).max() or 1.0),
        integrality=np.ones(program.size),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(rows, program.lower, program.upper),
        options={"mip_rel_gap": 0.0, "time_limit": _SECONDS},
    )
    if found.x is None:
        return None
    patterns = program.read(found.x)
    for budget, pattern in zip(budgets, patterns, strict=True):
        if not budget.holds(pattern) or not space.valid(pattern):
            raise AssertionError(f"the program's solution {pattern} is not allowed")
    return patterns


def smallest(space: Space, budget: Budget, kind: int) -> int:
    """The smallest size that a slice can have.

    Args:
        space: What may be chosen.
        budget: Its limits do not matter.
        kind: Which of its limits the size is of.
    """
    limit = budget.limits[kind]
    free = Budget(
        budget.name, (limit._replace(most=limit.costs.of(space.full)),), budget.parameters
    )
    values = tuple({width: -share / limit.costs.largest for width, share in shares.items()}
                   for shares in limit.costs.shares)  # fmt: skip
    found = solve(space, [free], [values])
    assert found is not None, "the widest slice is one"
    return limit.costs.of(found[0])


class _Program:
    """The rows of an integer program over one 0/1 variable for each (budget, layer, width)."""

    def __init__(self, space: Space, budgets: Sequence[Budget], nested: bool) -> None:
        self.places: dict[tuple[int, int, int], int] = {}
        self.size = 0
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.entries: list[float] = []
        self.lower: list[float] = []
        self.upper: list[float] = []
        self._space = space
        for target, budget in enumerate(budgets):
            self._choose(target)
            self._skips(target)
            for limit in budget.limits:
                scale = limit.costs.largest / _LARGEST_ENTRY
                room = limit.most - limit.costs.constant
                self._row(
                    {
                        self.places[target, layer, width]: share / scale
                        for layer, shares in enumerate(limit.costs.shares)
                        for width, share in shares.items()
                    },
                    upper=room / scale,
                )
        if nested:
            for target in range(len(budgets) - 1):
                for layer, choices in enumerate(space.choices):
                    top = max(choices)
                    self._row(
                        {self.places[target, layer, width]: width / top for width in choices}
                        | {
                            self.places[target + 1, layer, width]: -width / top for width in choices
                        },
                        upper=0,
                    )

    def stay_away(self, cut: Cut) -> None:
        """Keep at a distance from a solution, or farther."""
        same = self._same(cut.patterns)
        self._row(same, upper=len(same) - cut.layers)

    def stay_near(self, cut: Cut) -> None:
        """Keep at a distance from slices, or nearer."""
        same = self._same(cut.patterns)
        self._row(same, lower=len(same) - cut.layers)

    def read(self, x: np.ndarray) -> tuple[Pattern, ...]:
        """The slices of a solution."""
        chosen: dict[int, dict[int, int]] = {}
        for (target, layer, width), place in self.places.items():
            if x[place] > 0.5:
                chosen.setdefault(target, {})[layer] = width
        return tuple(
            tuple(layers[layer] for layer in sorted(layers)) for _, layers in sorted(chosen.items())
        )

    def _same(self, patterns: Sequence[Pattern]) -> dict[int, float]:
        """The variables that are 1 in these slices."""
        return {
            self.places[target, layer, width]: 1.0
            for target, pattern in enumerate(patterns)
            for layer, width in enumerate(pattern)
        }

    def _choose(self, target: int) -> None:
        """One choice for every layer."""
        for layer, choices in enumerate(self._space.choices):
            for width in choices:
                self.places[target, layer, width] = self._new()
            self._row({self.places[target, layer, w]: 1.0 for w in choices}, lower=1, upper=1)

    def _skips(self, target: int) -> None:
        """Only sets of layers are skipped that may be (`skips.check_skip`)."""
        space, text = self._space, self._space.text
        skipped = {layer: self.places[target, layer, 0]
                   for layer, choices in enumerate(space.choices) if 0 in choices}  # fmt: skip
        if space.skip_sets is not None:
            sets = [self._new() for _ in space.skip_sets]
            self._row(dict.fromkeys(sets, 1.0), lower=1, upper=1)
            for layer, place in skipped.items():
                inside = {one: -1.0 for one, layers in zip(sets, space.skip_sets, strict=True)
                          if layer in layers}  # fmt: skip
                self._row({place: 1.0, **inside}, lower=0, upper=0)
        else:
            groups = [
                [layer for layer, each in enumerate(text.layer_types) if each == kind]
                for kind in set(text.layer_types)
            ]
            groups.append(list(range(text.first_kv_shared_layer, text.num_hidden_layers)))
            for group in groups:
                if group and all(layer in skipped for layer in group):
                    self._row({skipped[layer]: 1.0 for layer in group}, upper=len(group) - 1)
        if space.uniform:
            ranks = [self._new() for _ in range(space.widths)]
            self._row(dict.fromkeys(ranks, 1.0), lower=1, upper=1)
            for layer, choices in enumerate(space.choices):
                widths = [width for width in choices if width]
                for width, rank in zip(widths, ranks, strict=True):
                    self._row({self.places[target, layer, width]: 1.0, rank: -1.0}, upper=0)

    def _new(self) -> int:
        self.size += 1
        return self.size - 1

    def _row(
        self, entries: Mapping[int, float], *, lower: float = -np.inf, upper: float = np.inf
    ) -> None:
        row = len(self.lower)
        self.rows += [row] * len(entries)
        self.columns += entries.keys()
        self.entries += entries.values()
        self.lower.append(lower)
        self.upper.append(upper)


def check_budgets(space: Space, budgets: Sequence[Budget], *, runtimes: Sequence[str] = ()) -> None:
    """Check that every budget has slices, and that no two have the same.

    Raises:
        InputError: Naming the budget: below the smallest slice, above the parent, without a slice
            that the runtimes load, or with the same slices as another one.
    """
    for budget in budgets:
        for kind, limit in enumerate(budget.limits):
            whole = limit.costs.of(space.full)
            if limit.most > whole:
                raise InputError(
                    f"the budget `{limit.kind}` {limit.written} is above the largest slice, which "
                    f"takes {limit.text(whole)}: there is nothing to search; lower it"
                )
            least = smallest(space, budget, kind)
            if limit.most < least:
                which = f" that {', '.join(runtimes)} loads" if runtimes else ""
                raise InputError(
                    f"the budget `{limit.kind}` {limit.written} is below the smallest slice"
                    f"{which}, which takes {limit.text(least)}; raise it, or allow narrower widths "
                    "or more skips"
                )
        nothing = tuple(dict.fromkeys(choices, 0.0) for choices in space.choices)
        if solve(space, [budget], [nothing]) is None:
            raise InputError(
                f"no slice is within all limits of the budget {budget.written}; raise one of them"
            )
    for one, other in combinations(budgets, 2):
        if _same_slices(space, one, other):
            raise InputError(
                f"the budgets {one.written} and {other.written} give the same slice: no slice lies "
                "between them; leave one out, or allow more widths"
            )


def _same_slices(space: Space, one: Budget, other: Budget) -> bool:
    """Whether no slice's size lies between two budgets of the same kind."""
    if len(one.limits) != 1 or len(other.limits) != 1:
        return False
    (a,), (b,) = one.limits, other.limits
    if a.kind != b.kind or a.costs != b.costs:
        return False
    low, high = sorted((a.most, b.most))
    steps = [sorted(shares.values()) for shares in a.costs.shares]
    widest_step = max(y - x for each in steps for x, y in pairwise([*each, each[-1]]))
    if (
        high - low >= widest_step
        and not space.uniform
        and space.skip_sets in (None, (frozenset(),))
    ):
        return False  # on the way from a slice below to the widest, one step at a time
    return not any(low < a.costs.constant + total <= high for total in _totals(space, a.costs))


def _totals(space: Space, costs: LayerCosts) -> set[int]:
    """The sums of shares that there are."""
    ranks = range(space.widths) if space.uniform else [None]
    sets = space.skip_sets if space.skip_sets is not None else [None]
    found: set[int] = set()
    for rank in ranks:
        for skipped in sets:
            totals = {0}
            for layer, choices in enumerate(space.choices):
                allowed = [width for width in choices if width]
                if rank is not None:
                    allowed = [allowed[rank]]
                if skipped is None and 0 in choices:
                    allowed.append(0)
                elif skipped is not None and layer in skipped:
                    allowed = [0]
                shares = {costs.shares[layer][width] for width in allowed}
                totals = {total + share for total in totals for share in shares}
            found |= totals
    return found

"""Budgets: what a slice may take, in the units that people have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from matformer_lab.common.errors import InputError
from matformer_lab.common.units import in_units, parse_count, parse_size
from matformer_lab.parent.parent import Parent
from matformer_lab.search.method.costs import MEASURES, CostTable, LayerCosts
from matformer_lab.search.method.space import Pattern
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of
from matformer_lab.slicing.slice import Slice
from matformer_lab.sweep.search_block import LIMITS, BudgetEntry

_NAMES: Final = {
    "max_params": "",
    "max_bytes": "-disk",
    "max_accelerator_bytes": "-accelerator",
    "max_flops": "-flops",
}
"""What the name of the slice that is found says about its limit."""


class Limit(NamedTuple):
    """One limit of a budget.

    Attributes:
        kind: As in a recipe.
        written: As the user wrote it.
        most: The same as a number.
        costs: What it limits, for the slices of the search's space.
        context: Tokens in the K/V cache, for accelerator bytes.
        text_only: Whether the bytes are those of the text-only checkpoint.
    """

    kind: str
    written: str
    most: int
    costs: LayerCosts
    context: int | None = None
    text_only: bool = False

    def size(self, parent: Parent, slice_: Slice) -> int:
        """What any slice of the parent takes."""
        plan = make_plan(parent, slice_, text_only=self.text_only)
        return MEASURES[self.kind](sizes_of(plan, self.context))

    def text(self, amount: int | None = None) -> str:
        """An amount, or the limit itself, for people."""
        amount = self.most if amount is None else amount
        return in_units(amount) if self.kind.endswith("bytes") else f"{amount:,}"


@dataclass(frozen=True)
class Budget:
    """What one of the results may take.

    Attributes:
        name: Of the slice that is found for it.
        limits: All of them hold.
        parameters: The effective parameters of slices, by which budgets are ordered.
    """

    name: str
    limits: tuple[Limit, ...]
    parameters: LayerCosts

    @property
    def written(self) -> str:
        """The budget as the user wrote it: `max_params 3.0B`."""
        return ", ".join(f"`{limit.kind}` {limit.written}" for limit in self.limits)

    def admits(self, parent: Parent, slice_: Slice) -> bool:
        """Whether any slice of the parent stays within every limit."""
        return all(limit.size(parent, slice_) <= limit.most for limit in self.limits)

    def holds(self, pattern: Pattern) -> bool:
        """Whether a slice of the search's space stays within every limit."""
        return all(limit.costs.of(pattern) <= limit.most for limit in self.limits)


def make_budgets(entries: Sequence[BudgetEntry], table: CostTable) -> tuple[Budget, ...]:
    """The budgets of a recipe, in its order.

    Raises:
        InputError: When an amount is not a number, no budget is given, or one comes twice.
    """
    if not entries:
        raise InputError(
            "no budget is given: write `max_params` 3.0B, `max_bytes`, `max_accelerator_bytes` or "
            "`max_flops`, or search.budgets in a recipe"
        )
    budgets = [_budget(entry, table) for entry in entries]
    names = [budget.name for budget in budgets]
    for budget in budgets:
        if names.count(budget.name) > 1:
            raise InputError(f"the budget {budget.written} is given twice; leave one out")
    return tuple(budgets)


def _budget(entry: BudgetEntry, table: CostTable) -> Budget:
    limits = []
    for kind in LIMITS:
        written = getattr(entry, kind)
        if written is None:
            continue
        parse = parse_size if kind.endswith("bytes") else parse_count
        if isinstance(written, str) and written.isdecimal():
            written = int(written)
        context = entry.context if kind == "max_accelerator_bytes" else None
        text_only = entry.text_only and kind == "max_bytes"
        most = parse(written, kind)
        costs = table.costs(kind, context, text_only)
        limits.append(Limit(kind, str(written), most, costs, context, text_only))
    name = "best-" + "-".join(limit.written.replace(" ", "") + _NAMES[limit.kind]
                              for limit in limits)  # fmt: skip
    return Budget(name, tuple(limits), table.costs("max_params"))

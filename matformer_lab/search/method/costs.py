"""What a choice for one layer costs, in every unit that a budget can be in.

A child's size is a constant and a share of every layer: widths and skips of other layers do not
matter to it. So one plan for each choice of each layer says what any of the slices takes, and no
formula of `slicing.sizes` is repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from matformer_lab.parent.parent import Parent
from matformer_lab.search.method.space import Pattern, Space, slice_of
from matformer_lab.slicing.plan import Plan, make_plan
from matformer_lab.slicing.sizes import Sizes, sizes_of

Measure = Callable[[Sizes], int]

MEASURES: Final[Mapping[str, Measure]] = {
    "max_params": lambda sizes: sizes.effective,
    "max_bytes": lambda sizes: sizes.nbytes,
    "max_accelerator_bytes": lambda sizes: sizes.accelerator_bytes + sizes.kv_cache_bytes,
    "max_flops": lambda sizes: sizes.flops_per_token,
}
"""What each limit of a budget is a limit of."""


@dataclass(frozen=True)
class LayerCosts:
    """A size of any slice of a space, as a constant and a share of every layer.

    Attributes:
        constant: What is not any layer's.
        shares: By layer and width (0: skipped).
    """

    constant: int
    shares: tuple[Mapping[int, int], ...]

    def of(self, pattern: Pattern) -> int:
        """The size of a slice."""
        return self.constant + sum(
            shares[width] for shares, width in zip(self.shares, pattern, strict=True)
        )

    @cached_property
    def largest(self) -> int:
        """The largest share, in absolute value."""
        return max(abs(share) for shares in self.shares for share in shares.values()) or 1


class CostTable:
    """The sizes of the slices of a space, in any unit, computed once for each choice of a layer."""

    def __init__(self, parent: Parent, space: Space) -> None:
        self._parent = parent
        self._space = space
        self._plans: dict[bool, dict[Pattern, Plan]] = {}
        self._costs: dict[tuple[str, int | None, bool], LayerCosts] = {}

    def costs(self, kind: str, context: int | None = None, text_only: bool = False) -> LayerCosts:
        """The shares of a kind of size.

        Args:
            kind: A key of `MEASURES`.
            context: Tokens in the K/V cache, which count only for accelerator bytes.
            text_only: Whether towers are left out, which counts only for bytes.
        """
        key = (kind, context, text_only)
        if key not in self._costs:
            self._costs[key] = self._measured(MEASURES[kind], context, text_only)
        return self._costs[key]

    def _measured(self, measure: Measure, context: int | None, text_only: bool) -> LayerCosts:
        full = self._space.full
        plans = self._plans.setdefault(text_only, {})

        def size(pattern: Pattern) -> int:
            if pattern not in plans:
                plans[pattern] = make_plan(
                    self._parent, slice_of(pattern, "sized"), text_only=text_only
                )
            return measure(sizes_of(plans[pattern], context))

        whole = size(full)
        shares = tuple(
            {width: size((*full[:layer], width, *full[layer + 1 :])) - whole for width in choices}
            for layer, choices in enumerate(self._space.choices)
        )
        return LayerCosts(whole, shares)

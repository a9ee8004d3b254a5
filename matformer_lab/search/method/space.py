"""The slices that a search may choose from: a width, or a skip, for every layer of the parent."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import TextConfig
from matformer_lab.slicing.notation.width import Width
from matformer_lab.slicing.skips import check_skip
from matformer_lab.slicing.slice import Slice

Pattern = tuple[int, ...]
"""A slice in a form that can be computed with: the FFN width of each layer of the parent, 0 where
the layer is skipped."""


@dataclass(frozen=True)
class Space:
    """Everything that may be chosen.

    Attributes:
        text: The parent's config.
        choices: For each layer, what it may be, ascending; 0 (skipped) first where that may be.
        skip_sets: The sets of skipped layers to choose from; None: any set that leaves a Gemma 3n.
        uniform: Whether all kept layers have the same width.
    """

    text: TextConfig
    choices: tuple[tuple[int, ...], ...]
    skip_sets: tuple[frozenset[int], ...] | None
    uniform: bool = False

    @property
    def full(self) -> Pattern:
        """The widest slice."""
        return tuple(max(each) for each in self.choices)

    def at(self, rank: int) -> Pattern:
        """Every layer at its `rank`-th width from below, none skipped."""
        return tuple([width for width in each if width][rank] for each in self.choices)

    @property
    def widths(self) -> int:
        """How many widths the layer with the fewest has."""
        return min(sum(width > 0 for width in each) for each in self.choices)

    def valid(self, pattern: Pattern) -> bool:
        """Whether a pattern of allowed widths also skips in an allowed way."""
        skipped = frozenset(layer for layer, width in enumerate(pattern) if not width)
        if self.skip_sets is not None and skipped not in self.skip_sets:
            return False
        if self.uniform and len({width for width in pattern if width}) > 1:
            return False
        try:
            check_skip(tuple(sorted(skipped)), self.text)
        except InputError:
            return False
        return True

    def neighbours(self, base: Pattern) -> Iterator[Pattern]:
        """Every pattern that differs from `base` in one layer, and is allowed.

        The last layers come first: their patterns share most of their layers with `base`.
        """
        for layer in reversed(range(len(base))):
            for width in self.choices[layer]:
                changed = (*base[:layer], width, *base[layer + 1 :])
                if width != base[layer] and self.valid(changed):
                    yield changed

    def steps(self, pattern: Pattern, direction: int) -> list[Pattern]:
        """The patterns with one layer a width narrower (-1) or wider (1); skips stay as they are.

        All layers together where all have one width.
        """
        if self.uniform:
            ranks = [self.at(rank) for rank in range(self.widths)]
            kept = [tuple(w and u for w, u in zip(pattern, each, strict=True)) for each in ranks]
            place = kept.index(pattern) + direction
            return [kept[place]] if 0 <= place < len(kept) else []
        steps = []
        for layer, width in enumerate(pattern):
            if not width:
                continue
            widths = [each for each in self.choices[layer] if each]
            place = widths.index(width) + direction
            if 0 <= place < len(widths):
                steps.append((*pattern[:layer], widths[place], *pattern[layer + 1 :]))
        return steps

    def draw(self, rng: random.Random) -> Pattern:
        """A random pattern: every layer's width is drawn by itself, skips from the given sets."""
        widths = [rng.choice([width for width in each if width]) for each in self.choices]
        if self.uniform:
            rank = rng.randrange(self.widths)
            widths = list(self.at(rank))
        if self.skip_sets:
            for layer in rng.choice(self.skip_sets):
                widths[layer] = 0
        return tuple(widths)


def make_space(
    text: TextConfig,
    widths: Sequence[Width],
    skip: Literal["none", "any"] | Sequence[tuple[int, ...]],
    *,
    uniform: bool = False,
) -> Space:
    """The space of a recipe's `widths` and `skip`.

    Raises:
        InputError: When a width does not fit a layer, or a set of layers cannot be skipped.
    """
    try:
        allowed = [
            sorted({width.units(layer, text) for width in widths})
            for layer in range(text.num_hidden_layers)
        ]
    except InputError as error:
        raise InputError(f"search.widths: {error}") from None
    skip_sets: tuple[frozenset[int], ...] | None = (frozenset(),)
    if skip == "any":
        skip_sets = None
    elif skip != "none":
        try:
            skip_sets = tuple(frozenset(check_skip(tuple(each), text)) for each in skip)
        except InputError as error:
            raise InputError(f"search.skip: {error}") from None
        if not skip_sets:
            raise InputError("search.skip: is an empty list; write none, any, or [[], 20-24]")
    choices = []
    for layer, here in enumerate(allowed):
        if skip_sets is None:
            may_skip = layer not in text.kv_sources
        else:
            may_skip = any(layer in each for each in skip_sets)
        choices.append((0, *here) if may_skip else tuple(here))
    return Space(text, tuple(choices), skip_sets, uniform)


def slice_of(pattern: Pattern, name: str) -> Slice:
    """The pattern as a slice."""
    return Slice(
        name,
        widths=tuple(width for width in pattern if width),
        skipped=tuple(layer for layer, width in enumerate(pattern) if not width),
    )


def pattern_of(slice_: Slice, layers: int) -> Pattern:
    """A slice as a pattern."""
    widths = slice_.by_layer(layers)
    return tuple(widths.get(layer, 0) for layer in range(layers))


def distance(a: Pattern, b: Pattern) -> int:
    """In how many layers two patterns differ."""
    return sum(x != y for x, y in zip(a, b, strict=True))


def entry_of(slice_: Slice) -> dict[str, object]:
    """A slice written out, as an entry of a recipe."""
    return {
        "name": slice_.name,
        "widths": list(slice_.widths),
        "skip": list(slice_.skipped),
    }

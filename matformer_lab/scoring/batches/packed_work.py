"""How much work packed batches are: tokens, padding, and pairs of tokens in attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from matformer_lab.scoring.batches.packing import Batch


@dataclass(frozen=True)
class PackedWork:
    """What batches hold; sums of several are their fields' sums.

    Attributes:
        batches: How many there are.
        tokens: Without padding.
        computed: Tokens with padding: what layers that own their K/V compute.
        scored: Tokens whose prediction is read, with padding: what layers that reuse K/V compute.
        pairs: Queries times keys in a layer that owns its K/V, masked ones too.
        scored_pairs: The same in a layer that reuses K/V.
    """

    batches: float = 0
    tokens: float = 0
    computed: float = 0
    scored: float = 0
    pairs: float = 0
    scored_pairs: float = 0

    @property
    def padding(self) -> float:
        """The share of the computed tokens that is padding."""
        return 1 - self.tokens / self.computed if self.computed else 0.0

    def __add__(self, other: PackedWork) -> PackedWork:
        return self._with(lambda mine, theirs: mine + theirs, other)

    def __mul__(self, factor: float) -> PackedWork:
        return PackedWork(**{name: value * factor for name, value in vars(self).items()})

    def beyond(self, other: PackedWork) -> PackedWork:
        """What this is more than the other; never below nothing."""
        return self._with(lambda mine, theirs: max(0, mine - theirs), other)

    def _with(self, function: Callable[[float, float], float], other: PackedWork) -> PackedWork:
        return PackedWork(
            **{name: function(value, vars(other)[name]) for name, value in vars(self).items()}
        )


def work_of(batches: Iterable[Batch]) -> PackedWork:
    """The work of batches from `packing.pack`."""
    return sum(map(_of_one, batches), PackedWork())


def _of_one(batch: Batch) -> PackedWork:
    rows, length = batch.input_ids.shape
    slots = batch.scored.shape[1]
    return PackedWork(
        batches=1,
        tokens=batch.tokens,
        computed=rows * length,
        scored=rows * slots,
        pairs=rows * length**2,
        scored_pairs=rows * slots * length,
    )

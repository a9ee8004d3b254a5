"""Weights that are read from the disk while the layer before is computed.

On a machine with less memory than model, the weights of every layer come from the disk again and
again, and a page fault reads only a few pages at a time. Asking for the next layer in time lets the
disk and the processor work side by side.
"""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from matformer_lab.live.mapped_weights import spans_of, will_need
from matformer_lab.live.stored_dtype import SMALLEST_KEPT

if TYPE_CHECKING:
    from torch import nn


def bytes_read(batches: int, weights: int, memory: int) -> int:
    """What a pass reads from the disk, in bytes, if nothing was in memory before.

    Layers are used in turn, so that of weights that do not fit, each has given way when its turn
    comes again: every batch reads all of them.

    Args:
        batches: How many the pass has.
        weights: Bytes of the layers of its slices, those that slices share counted once.
        memory: Bytes that are free for them.
    """
    return weights if weights <= memory else batches * weights


class ReadAhead:
    """Asks for the weights of layers on a thread of its own, where that helps.

    Weights that are not a mapped file, or are in memory already, cost a system call.

    Args:
        layer: Any layer: small ones are not worth the calls.
    """

    def __init__(self, layer: nn.Module) -> None:
        large = any(weight.numel() >= SMALLEST_KEPT for weight in layer.state_dict().values())
        wanted = large and sys.platform == "linux"
        self._thread = ThreadPoolExecutor(1, "read-ahead") if wanted else None
        self._asked: Future[None] | None = None

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def ask_for(self, module: nn.Module) -> None:
        """Have the large weights of `module` read; returns at once."""
        if self._thread is None or (self._asked is not None and not self._asked.done()):
            return  # the disk is behind: asking for more would not make it faster
        large = [w for w in module.state_dict().values() if w.numel() >= SMALLEST_KEPT]
        if spans := spans_of(large):
            self._asked = self._thread.submit(will_need, spans)

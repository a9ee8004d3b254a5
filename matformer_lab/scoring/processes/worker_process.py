"""What a worker process does: it scores one batch after the other until its pool is gone.

It opens the parent itself, so that weights are shared through the page cache, and is sent packed
batches alone: no task, no text, nothing to write. When the pool's process ends, however it ends,
the connection does, and the worker with it: after the batch that it is computing, at the latest.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, NamedTuple

from matformer_lab.parent.parent import Parent
from matformer_lab.scoring.batches.packing import Batch
from matformer_lab.slicing.slice import Slice

if TYPE_CHECKING:
    import numpy as np
    from transformers import Gemma3nForCausalLM


@dataclass(frozen=True)
class Opening:
    """What a worker needs for all its batches.

    Attributes:
        parent: With its weights on this machine.
        slices: All that will be scored: no more is loaded than they need.
        dtype: The compute dtype's name.
        threads: CPU threads of the worker.
    """

    parent: Parent
    slices: tuple[Slice, ...]
    dtype: str
    threads: int


class Work(NamedTuple):
    """A batch to score.

    Attributes:
        slices: By name; None: those of the batch before.
        batch: Packed.
    """

    slices: Mapping[str, Slice] | None
    batch: Batch


class ScoredBatch(NamedTuple):
    """`lm_head.TargetScores` of a batch as arrays, both [slices, reads], slices in their order.

    Attributes:
        logprob: Natural logarithm, fp32.
        is_greedy: Whether the target is the most likely token.
        seconds: What it took.
    """

    logprob: np.ndarray
    is_greedy: np.ndarray
    seconds: float


def serve(connection: Connection) -> None:
    """Answer every `Work` with a `ScoredBatch`, or with the error that stopped it."""
    failure: Exception | None = None
    try:
        scorer = _Scorer(connection.recv())
    except EOFError:
        return
    except Exception as error:
        failure = error
    while True:
        try:
            work: Work = connection.recv()
        except (EOFError, OSError):
            return  # the pool is gone
        try:
            reply: ScoredBatch | Exception = failure or scorer.score(work)
        except Exception as error:
            reply = error
        try:
            connection.send(reply)
        except OSError:
            return
        except Exception:  # an error that cannot be sent as it is
            connection.send(RuntimeError(f"{type(reply).__name__}: {reply}"))


class _Scorer:
    def __init__(self, opening: Opening) -> None:
        import torch

        from matformer_lab.live.elastic import ElasticParent

        torch.set_num_threads(opening.threads)
        self._elastic = ElasticParent.load(
            opening.parent, slices=opening.slices, dtype=opening.dtype, device="cpu"
        )
        self._firsts: dict[tuple[int, ...], Gemma3nForCausalLM] = {}

    def score(self, work: Work) -> ScoredBatch:
        import time

        import numpy as np

        from matformer_lab.scoring.slice_scoring import score_batch

        if work.slices is not None:
            self._begin(work.slices)
        began = time.perf_counter()
        scores = score_batch(self._models, self._trie, work.batch, self._fetcher.fetch(work.batch))
        return ScoredBatch(
            np.stack([scores[name].logprob.numpy() for name in self._models]),
            np.stack([scores[name].is_greedy.numpy() for name in self._models]),
            time.perf_counter() - began,
        )

    def _begin(self, slices: Mapping[str, Slice]) -> None:
        from matformer_lab.scoring.per_layer_inputs import PerLayerInputFetcher
        from matformer_lab.scoring.slice_scoring import layer_keys
        from matformer_lab.scoring.slice_trie import build_trie

        self._models = self._elastic.live_together(slices, self._firsts)
        self._trie = build_trie({name: layer_keys(model) for name, model in self._models.items()})
        self._fetcher = PerLayerInputFetcher(next(iter(self._models.values())))


def main() -> None:
    """Serve the connection whose file descriptor is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool's process decides what Ctrl-C does
    serve(Connection(int(sys.argv[1])))

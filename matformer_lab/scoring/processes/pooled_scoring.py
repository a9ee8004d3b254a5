"""`score_slices` by worker processes: begun now, waited for later.

So the batches of the next passes are computed while the caller evaluates the answers of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import budget_for
from matformer_lab.scoring.journal import Journal
from matformer_lab.scoring.lm_head import TargetScores
from matformer_lab.scoring.slice_scoring import (
    Answer,
    BatchScores,
    answers_of,
    batches_of,
    keep_what_was_scored,
)

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

    from matformer_lab.scoring.processes.worker_pool import WorkerPool
    from matformer_lab.slicing.slice import Slice


class PooledScoring:
    """Requests that worker processes score on several slices.

    Args:
        pool: Has the slices' parent.
        slices: By name.
        model: Any of the slices, as a live model on the CPU.
        requests: For all slices, in any order.
        journal: As for `score_slices`.
    """

    def __init__(
        self,
        pool: WorkerPool,
        slices: Mapping[str, Slice],
        model: Gemma3nForCausalLM,
        requests: Sequence[Request],
        journal: Journal | None = None,
    ) -> None:
        self._names = tuple(slices)
        self._count = len(requests)
        self._journal = journal or Journal()
        batches = batches_of(model, requests, self._journal.begin(budget_for(model)))
        # In this order: zip takes no batch once there is no record.
        self._read = [
            BatchScores(batch.request, scores)
            for scores, batch in zip(self._journal.recorded(), batches, strict=False)
        ]
        assert self._journal.changed() is None, "only an accelerator changes its budget"
        self._workers = len(pool.pids)
        self._results = pool.start(slices, batches)
        self.seconds = 0.0
        """How long all workers were busy with the batches; known when they are done."""

    def answers(
        self, progress: Callable[[float, int], None] = lambda _done, _count: None
    ) -> dict[str, list[Answer]]:
        """Wait for the answers; see `score_slices`.

        Args:
            progress: Called with (requests done, requests in all) after every batch.
        """
        done = sum(len(set(read.request.tolist())) for read in self._read)
        try:
            for request, (logprob, is_greedy, seconds) in self._results:
                scores = {
                    name: TargetScores(torch.from_numpy(logprob[n]), torch.from_numpy(is_greedy[n]))
                    for n, name in enumerate(self._names)
                }
                self._journal.add(scores)
                self._read.append(BatchScores(request, scores))
                self.seconds += seconds / self._workers
                done += len(set(request.tolist()))
                progress(done, self._count)
        except BaseException as error:
            keep_what_was_scored(self._journal, error)
            raise
        return {name: answers_of(name, self._count, self._read) for name in self._names}

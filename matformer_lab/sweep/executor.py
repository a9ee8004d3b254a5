"""Where a sweep's scores are computed: in this process, or (`ray_executor`) on a cluster.

An executor computes and hands over. What is still to do, and the store, are the sweep's affair.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.scoring import Score, resolve_device, score_together
from matformer_lab.gemma3n import TextConfig
from matformer_lab.parent.hub import with_weights
from matformer_lab.sweep.jobs import Job, Prepared
from matformer_lab.sweep.passes import passes
from matformer_lab.sweep.provenance import device_name, now
from matformer_lab.sweep.recipe import Recipe
from matformer_lab.sweep.store import Key, Run

if TYPE_CHECKING:
    from matformer_lab.live.elastic import ElasticParent

_SMALL_HIDDEN_SIZE: Final = 256

Report = Callable[[Sequence[Job], float], None]
"""Called with the jobs of a pass and the share of it that is done, 0 to 1."""


@dataclass(frozen=True)
class Scored:
    """A finished score, ready for the store."""

    key: Key
    score: Score
    run: Run


class Executor(Protocol):
    """Computes scores somewhere."""

    def device(self, recipe: Recipe) -> str:
        """The recipe's `device` with `auto` resolved for where the scores are computed."""

    def fetched(self, prepared: Prepared) -> Prepared:
        """`prepared` with whatever weights this process needs on its disk."""

    def scores(
        self, prepared: Prepared, pending: Sequence[Job], report: Report
    ) -> Iterator[Scored]:
        """A score for each of the jobs, as they finish. Raises `InputError`."""


class LocalExecutor:
    """This process, one pass after the other."""

    def device(self, recipe: Recipe) -> str:
        return resolve_device(recipe.device)

    def fetched(self, prepared: Prepared) -> Prepared:
        return replace(prepared, parent=with_weights(prepared.parent))

    def scores(
        self, prepared: Prepared, pending: Sequence[Job], report: Report
    ) -> Iterator[Scored]:
        elastic = load_elastic(prepared)
        for group in passes(pending):
            yield from score_pass(prepared, elastic, group, report)


def load_elastic(prepared: Prepared) -> "ElasticParent":
    """Those of the parent's weights that the recipe's slices need, as the recipe wants them."""
    import torch

    from matformer_lab.live.elastic import ElasticParent

    with _lack_of_memory_in_words(prepared):
        return ElasticParent.load(
            prepared.parent,
            slices=[sized.plan.slice for sized in prepared.sized],
            dtype=getattr(torch, prepared.recipe.dtype),
            device=prepared.device,
        )


def score_pass(
    prepared: Prepared, elastic: "ElasticParent", group: Sequence[Job], report: Report
) -> Iterator[Scored]:
    """Score the slices of `group` on their one task."""
    recipe = prepared.recipe
    by_slice = {job.key.slice: job for job in group}
    models = {digest: elastic.live(job.sized.plan.slice) for digest, job in by_slice.items()}
    report(group, 0.0)
    with _threads_for(prepared.parent.text), _lack_of_memory_in_words(prepared):
        scored = score_together(
            models,
            prepared.tokenizer,
            group[0].task,
            scorer=recipe.scorer,
            batch_size=recipe.batch_size,
            progress=lambda share: report(group, share),
        )
        for digest, score, seconds in scored:
            job = by_slice[digest]
            run = Run(
                seconds=seconds,
                prompt_chars=job.task.prompt_chars,
                effective_params=job.sized.sizes.effective,
                batch_size=recipe.batch_size,
                device_name=device_name(prepared.device),
                finished=now(),
            )
            yield Scored(job.key, score, run)


@contextmanager
def _lack_of_memory_in_words(prepared: Prepared) -> Iterator[None]:
    """PyTorch's many words on memory as one line with a remedy."""
    import torch

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPU" not in str(error):
            raise
        raise InputError(
            f"device: {prepared.device} has too little memory for these slices in "
            f"{prepared.recipe.dtype}: `matformer-lab plan` says what a slice takes, and scoring "
            "takes up to a fifth more; use narrower slices, bfloat16 or device: cpu"
        ) from None


@contextmanager
def _threads_for(text: TextConfig) -> Iterator[None]:
    """One CPU thread for a model too small to share out.

    Its matrices take less time than waking a second thread: with an earlier embedded parent
    (32 x 64) the demo needed 36 s of CPU with one thread on two busy cores, 89 to 122 s with two.
    """
    import torch

    before = torch.get_num_threads()
    if text.hidden_size < _SMALL_HIDDEN_SIZE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""One pass: several slices scored together on one task."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.agreement import AgreementTask
from matformer_lab.evaluation.evaluate import score_together
from matformer_lab.evaluation.finite import NotFiniteScoresError
from matformer_lab.gemma3n import TextConfig
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.sweep.executors.base import Scored, ShowShare
from matformer_lab.sweep.jobs import Job, Prepared
from matformer_lab.sweep.provenance import device_name, now
from matformer_lab.sweep.store import Run

if TYPE_CHECKING:
    from matformer_lab.live.elastic import ElasticParent
    from matformer_lab.scoring.journal import Journal


_SMALL_HIDDEN_SIZE: Final = 256  # below this, one CPU thread is faster than several


def load_elastic(prepared: Prepared) -> "ElasticParent":
    """Load the weights that the recipe's slices need, for its dtype and on its device.

    Raises:
        InputError: When there is too little memory.
    """

    from matformer_lab.live.elastic import ElasticParent

    slices = [sized.slice for sized in prepared.sized]
    if any(isinstance(task, AgreementTask) for task in prepared.tasks):
        slices.append(resolve_slice("full", prepared.parent))
    with _memory_explained(prepared):
        return ElasticParent.load(
            prepared.parent,
            slices=slices,
            dtype=prepared.dtype.name,
            device=prepared.device,
        )


def score_pass(
    prepared: Prepared,
    elastic: "ElasticParent",
    group: Sequence[Job],
    show_share: ShowShare,
    journal: "Journal | None" = None,
) -> Iterator[Scored]:
    """Score the slices of a pass together.

    Args:
        prepared: The sweep.
        elastic: The parent, loaded by `load_elastic`.
        group: The jobs of the pass, all of one task.
        show_share: Told how far the pass is.
        journal: Keeps what is computed, for a run that continues this one.

    Yields:
        A score for each job.

    Raises:
        InputError: When there is too little memory, or the task cannot be scored; after the other
            scores, when a slice gives log-probabilities that are no numbers.
    """
    recipe = prepared.recipe
    by_slice = {job.key.slice: job for job in group}
    models = elastic.live_together({digest: job.slice for digest, job in by_slice.items()})
    show_share(group, 0.0)
    with _threads_for(prepared.parent.text), _memory_explained(prepared):
        scored = score_together(
            models,
            prepared.tokenizer,
            group[0].task,
            scorer=recipe.scorer,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            parent=(lambda: elastic.live("full")),
            progress=lambda share: show_share(group, share),
            journal=journal,
        )
        try:
            for digest, score, seconds in scored:
                job = by_slice[digest]
                run = Run(
                    seconds=seconds,
                    prompt_chars=job.task.prompt_chars,
                    effective_params=job.sizes.effective,
                    batch_size=recipe.batch_size,
                    device_name=device_name(prepared.device),
                    finished=now(),
                )
                yield Scored(job.key, score, run)
        except NotFiniteScoresError as error:
            (digest, first), *more = error.by_model.items()
            others = ", ".join(by_slice[digest].name for digest, _ in more)
            raise InputError(
                f"slice {by_slice[digest].name}: {first}" + (f" (and {others})" if others else "")
            ) from None


@contextmanager
def _memory_explained(prepared: Prepared) -> Iterator[None]:
    """Turn PyTorch's long errors about memory into one line with a remedy."""
    import torch

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPU" not in str(error):
            raise
        raise InputError(
            f"device: {prepared.device} has too little memory for these slices in "
            f"{prepared.dtype.name}: `matformer-lab plan` shows what a slice needs, and scoring "
            "needs up to a fifth more; use narrower slices, bfloat16 or device: cpu"
        ) from None


@contextmanager
def _threads_for(text: TextConfig) -> Iterator[None]:
    """Use one CPU thread for a model that is too small for several.

    Multiplying its matrices takes less time than waking a second thread: with an earlier embedded
    parent (32 x 64), the demo took 36 s of CPU time with one thread on two busy cores, and 89 to
    122 s with two.
    """
    import torch

    before = torch.get_num_threads()
    if text.hidden_size < _SMALL_HIDDEN_SIZE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""One pass: several slices scored together on one task."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.agreement import AgreementTask
from matformer_lab.evaluation.evaluate import prefix_requests, score_together
from matformer_lab.evaluation.finite import NotFiniteScoresError
from matformer_lab.evaluation.tasks.loading import LoadedTask
from matformer_lab.gemma3n import TextConfig
from matformer_lab.live.devices import has_own_memory, is_out_of_memory
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.slice import Slice
from matformer_lab.sweep.executors.base import Scored, ShowShare
from matformer_lab.sweep.jobs import Job, Prepared
from matformer_lab.sweep.scores.provenance import device_name, now
from matformer_lab.sweep.scores.store import Run

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

    from matformer_lab.live.elastic import ElasticParent
    from matformer_lab.scoring.journal import Journal
    from matformer_lab.scoring.processes.pooled_scoring import PooledScoring
    from matformer_lab.scoring.processes.worker_pool import WorkerPool


_SMALL_HIDDEN_SIZE: Final = 256  # below this, one CPU thread is faster than several


def load_elastic(prepared: Prepared) -> "ElasticParent":
    """Load the weights that the recipe's slices need, for its dtype and on its device.

    Raises:
        InputError: When there is too little memory.
    """

    from matformer_lab.live.elastic import ElasticParent

    with _memory_explained(prepared):
        return ElasticParent.load(
            prepared.parent,
            slices=slices_to_load(prepared),
            dtype=prepared.dtype.name,
            device=prepared.device,
        )


def slices_to_load(prepared: Prepared) -> list[Slice]:
    """The recipe's slices, and the whole parent where they are compared with it."""
    slices = [sized.slice for sized in prepared.sized]
    if any(isinstance(task, AgreementTask) for task in prepared.tasks):
        slices.append(resolve_slice("full", prepared.parent))
    return slices


@dataclass(frozen=True)
class BegunPass:
    """A pass whose slices are live, and whose batches worker processes may be scoring.

    Attributes:
        jobs: By the slice's digest.
        models: Likewise.
        elsewhere: What the worker processes score.
    """

    jobs: "Mapping[str, Job]"
    models: "Mapping[str, Gemma3nForCausalLM]"
    elsewhere: "PooledScoring | None" = None


def begin_pass(
    prepared: Prepared,
    elastic: "ElasticParent",
    group: Sequence[Job],
    journal: "Journal | None" = None,
    pool: "WorkerPool | None" = None,
    firsts: "dict[tuple[int, ...], Gemma3nForCausalLM] | None" = None,
) -> BegunPass:
    """Make the slices of a pass live, and give worker processes their work.

    Args:
        prepared: The sweep.
        elastic: The parent, loaded by `load_elastic`.
        group: The jobs of the pass, all of one task.
        journal: As for `finish_pass`.
        pool: The worker processes; None: everything is computed in this process, by `finish_pass`.
        firsts: Of `live_together`, for all passes of a sweep.

    Raises:
        InputError: As for `score_pass`.
    """
    jobs = {job.key.slice: job for job in group}
    slices = {digest: job.slice for digest, job in jobs.items()}
    models = elastic.live_together(slices, firsts)
    if pool is None or prepared.is_compiled(group[0].task):
        return BegunPass(jobs, models)
    from matformer_lab.scoring.processes.pooled_scoring import PooledScoring

    model = next(iter(models.values()))
    task, scorer = group[0].task, prepared.recipe.scorer
    requests = prefix_requests(model, prepared.tokenizer, task, scorer=scorer)
    if not requests:
        return BegunPass(jobs, models)
    return BegunPass(jobs, models, PooledScoring(pool, slices, model, requests, journal))


def score_pass(
    prepared: Prepared,
    elastic: "ElasticParent",
    group: Sequence[Job],
    show_share: ShowShare,
    journal: "Journal | None" = None,
) -> Iterator[Scored]:
    """Score the slices of a pass together, in this process; see `finish_pass`."""
    begun = begin_pass(prepared, elastic, group)
    yield from finish_pass(prepared, elastic, begun, journal, show_share)


def finish_pass(
    prepared: Prepared,
    elastic: "ElasticParent",
    begun: BegunPass,
    journal: "Journal | None",
    show_share: ShowShare,
) -> Iterator[Scored]:
    """Score the slices of a pass together.

    Args:
        prepared: The sweep.
        elastic: The parent, loaded by `load_elastic`.
        begun: From `begin_pass`.
        journal: Keeps what is computed, for a run that continues this one.
        show_share: Told how far the pass is.

    Yields:
        A score for each job.

    Raises:
        InputError: When there is too little memory, or the task cannot be scored; after the other
            scores, when a slice gives log-probabilities that are NaN.
    """
    from matformer_lab.scoring.journal import Journal

    recipe = prepared.recipe
    journal = journal or Journal()
    by_slice, group = begun.jobs, tuple(begun.jobs.values())
    show_share(group, 0.0)
    with _threads_for(prepared.parent.text), _memory_explained(prepared):
        scored = score_together(
            begun.models,
            prepared.tokenizer,
            group[0].task,
            scorer=recipe.scorer,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            compiled=prepared.is_compiled(group[0].task),
            parent=(lambda: elastic.live("full")),
            progress=lambda share: show_share(group, share),
            journal=journal,
            elsewhere=begun.elsewhere,
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
                    budgets=_budgets(prepared, job.task, journal),
                )
                yield Scored(job.key, score, run)
        except NotFiniteScoresError as error:
            (digest, first), *more = error.by_model.items()
            others = ", ".join(by_slice[digest].name for digest, _ in more)
            raise InputError(
                f"slice {by_slice[digest].name}: {first}" + (f" (and {others})" if others else "")
            ) from None


def _budgets(
    prepared: Prepared, task: LoadedTask, journal: "Journal"
) -> list[dict[str, Any]] | None:
    """What the pass was computed with, where that depends on the machine."""
    if not journal.budgets or not (has_own_memory(prepared.device) or prepared.is_compiled(task)):
        return None
    return [
        {"mode": budget.mode, "batch_tokens": budget.batch_tokens} for budget in journal.budgets
    ]


@contextmanager
def _memory_explained(prepared: Prepared) -> Iterator[None]:
    """Turn PyTorch's long errors about memory into one line with a remedy."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"device: {prepared.device} has too little memory for these slices in "
            f"{prepared.dtype.name}: `matformer-lab plan` shows what a slice needs, and scoring "
            "needs up to a fifth more; use narrower slices, bfloat16 or device: cpu"
        ) from None


def one_thread_is_fastest(text: TextConfig) -> bool:
    """Whether a model's matrices are too small for several CPU threads to share a product."""
    return text.hidden_size < _SMALL_HIDDEN_SIZE


@contextmanager
def _threads_for(text: TextConfig) -> Iterator[None]:
    """Use one CPU thread for a model that is too small for several.

    Multiplying its matrices takes less time than waking a second thread: with an earlier embedded
    parent (32 x 64), the demo took 36 s of CPU time with one thread on two busy cores, and 89 to
    122 s with two.
    """
    import torch

    before = torch.get_num_threads()
    if one_thread_is_fastest(text):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

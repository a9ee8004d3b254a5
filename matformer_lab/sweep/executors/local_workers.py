"""How many processes of this machine score batches side by side."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.agreement import AgreementTask
from matformer_lab.evaluation.answers import AnswersTask
from matformer_lab.sweep.executors.score_pass import one_thread_is_fastest
from matformer_lab.sweep.jobs import Job, Prepared
from matformer_lab.sweep.passes import pass_cost, passes

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

_COST_PER_WORKER: Final = 5e11
"""Of `pass_cost`: about 20 s for the embedded parent. A process needs some 5 s before its first
batch, most of it imports."""
_PROCESS_BYTES: Final = 400 << 20
"""Memory of a process besides weights and activations: mostly PyTorch's own."""


def check_workers(count: int, prepared: Prepared) -> None:
    """Check that several processes may score this sweep's batches.

    Raises:
        InputError: When its scores would not be the same bytes, or nothing would be shared out.
    """
    if count == 1:
        return
    text = prepared.parent.text
    if prepared.device != "cpu":
        raise InputError(
            f"`workers` are CPU processes, and this sweep computes on {prepared.device}; leave it "
            "out, or use `executor` ray for several GPUs"
        )
    if not one_thread_is_fastest(text):
        raise InputError(
            f"`workers` {count}: this parent's products (hidden size {text.hidden_size}) are large "
            "enough for one process to use all cores; leave it out"
        )
    if not any(_shared_out(job, prepared) for job in prepared.jobs):
        raise InputError(
            f"`workers` {count}: workers score uncompiled log-likelihood requests for `scorer` "
            "prefix, and this sweep has none; leave it out"
        )


def usual_workers(
    prepared: Prepared,
    pending: Sequence[Job],
    live: "Callable[[], Gemma3nForCausalLM] | None" = None,
) -> int:
    """As many as there are CPU threads, memory and work for; 1 where a product is shared out.

    Args:
        prepared: The sweep.
        pending: Its jobs to score.
        live: Makes any of the slices as a live model; None: memory is taken to suffice.
    """
    import torch

    if prepared.device != "cpu" or not one_thread_is_fastest(prepared.parent.text):
        return 1
    work = sum(map(pass_cost, passes([job for job in pending if _shared_out(job, prepared)])))
    count = min(torch.get_num_threads(), int(work / _COST_PER_WORKER))
    if live is None or count < 2:
        return max(1, count)
    return _within_memory(count, prepared, live())


def _within_memory(count: int, prepared: Prepared, model: "Gemma3nForCausalLM") -> int:
    """At most so many that each has room for the batches that one process alone would compute."""
    from matformer_lab.live.devices import free_bytes
    from matformer_lab.scoring.batches.token_budget import budget_for, tokens_within

    wanted, room = budget_for(model).batch_tokens, free_bytes(model.device) // 2
    copies = max(sized.sizes.effective for sized in prepared.sized) * model.dtype.itemsize
    while count > 1 and tokens_within(room // count - _PROCESS_BYTES - copies, model) < wanted:
        count -= 1
    return count


def _shared_out(job: Job, prepared: Prepared) -> bool:
    if isinstance(job.task, AgreementTask):
        return False  # it compares each batch with the whole parent, in one process
    if prepared.is_compiled(job.task):
        return False  # code would be compiled in each process
    return prepared.recipe.scorer == "prefix" or isinstance(job.task, AnswersTask)

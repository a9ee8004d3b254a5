"""Makes the parent's weights available locally: a Hub parent's are downloaded first."""

from collections.abc import Sequence
from pathlib import Path

from matformer_lab.checkpoint.disk.staging import check_target
from matformer_lab.parent.fetch import fetched
from matformer_lab.slicing.plan import Plan, make_plan


def with_local_weights(
    plans: Sequence[Plan], out: Path | None, *, progress: bool
) -> tuple[Plan, ...]:
    """Download the weights that the plans read, unless the parent is local.

    Args:
        plans: One or more plans of the same parent.
        out: Where the result will be written, checked before anything is downloaded; None if
            nothing will be.
        progress: Whether to show a progress bar while downloading.

    Returns:
        The same plans, of a parent with a local folder. Of a Hub parent, that folder holds at
        least the parts of tensors that the plans need.

    Raises:
        InputError: When `out` cannot be used, or the download fails.
    """
    parent = plans[0].parent
    if parent.folder is not None:
        return tuple(plans)
    if out is not None:
        check_target(None, out)
    parts = [tensor for plan in plans for tensor in plan.tensors]
    local = fetched(parent, parts, progress=progress)
    return tuple(make_plan(local, plan.slice, text_only=plan.text_only) for plan in plans)

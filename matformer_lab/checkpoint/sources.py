"""Plans whose parent's weights are on the disk: fetched first where the parent is on the Hub."""

from collections.abc import Sequence
from pathlib import Path

from matformer_lab.checkpoint.disk.staging import check_target
from matformer_lab.parent.fetch import fetched
from matformer_lab.slicing.plan import Plan, make_plan


def with_weights_at_hand(
    plans: Sequence[Plan], out: Path | None, *, progress: bool
) -> tuple[Plan, ...]:
    """The plans, of a parent that is local as far as they need it.

    Args:
        plans: At least one; all of one parent.
        out: Where the result will be written: refused before anything is fetched. None: nowhere.
        progress: Show a bar while fetching.

    Raises:
        InputError: When `out` cannot be used, or the Hub refuses.
    """
    parent = plans[0].parent
    if parent.folder is not None:
        return tuple(plans)
    if out is not None:
        check_target(None, out)
    parts = [tensor for plan in plans for tensor in plan.tensors]
    local = fetched(parent, parts, progress=progress)
    return tuple(make_plan(local, plan.slice, text_only=plan.text_only) for plan in plans)

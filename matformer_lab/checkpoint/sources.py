"""Makes the parent's weights available locally: a Hub parent's are downloaded first."""

from collections.abc import Sequence
from pathlib import Path

from matformer_lab.checkpoint.disk.staging import check_target
from matformer_lab.parent.fetch import fetched
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.plan import Plan, plan_filled


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
        least the parts of tensors that the plans need. So does that of the checkpoint which K/V
        are filled in from.

    Raises:
        InputError: When `out` cannot be used, or the download fails.
    """
    parent = plans[0].parent
    kv_from = plans[0].filling.kv_from
    if parent.folder is not None and (kv_from is None or kv_from.folder is not None):
        return tuple(plans)
    if out is not None:
        check_target(parent.folder, out)
    parts = [tensor for plan in plans for tensor in plan.tensors]
    parent = fetched(parent, [one for one in parts if one.origin is None], progress=progress)
    if kv_from is not None:
        kv_from = fetched(kv_from, [one for one in parts if one.origin], progress=progress)
    return tuple(_replanned(plan, parent, kv_from) for plan in plans)


def _replanned(plan: Plan, parent: Parent, kv_from: Parent | None) -> Plan:
    return plan_filled(
        parent, plan.slice, text_only=plan.text_only, fill=plan.filling.asked, kv_from=kv_from
    )

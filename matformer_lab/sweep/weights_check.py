"""Weights with NaN or infinity, named before a sweep starts: no score would come of them."""

import warnings

from matformer_lab.checkpoint.disk.tensor_bytes import child_bytes, thread_scratch
from matformer_lab.common.errors import InputError
from matformer_lab.common.not_finite import holds_not_finite
from matformer_lab.slicing.plan import TensorPlan, make_plan
from matformer_lab.sweep.jobs import Prepared


def check_weights(prepared: Prepared) -> None:
    """Name the tensors that hold NaN or infinity where one of the slices uses it.

    The parent is searched once, when its fingerprint is taken, and what was found is kept.

    Args:
        prepared: The sweep. Weights that are not on this machine are not looked at.

    Raises:
        InputError: No slice would have a score.

    Warns:
        UserWarning: Some of the slices would have none.
    """
    parent = prepared.parent
    if parent.folder is None or not parent.not_finite:
        return
    by_slice = {
        sized.name: [
            tensor.source
            for tensor in make_plan(parent, sized.slice, text_only=True).tensors
            if tensor.source in parent.not_finite and _holds(tensor, prepared)
        ]
        for sized in prepared.sized
    }
    spoilt = [name for name, tensors in by_slice.items() if tensors]
    if not spoilt:
        return
    tensors = sorted({tensor for found in by_slice.values() for tensor in found})
    more = f" and {len(tensors) - 3} more" if len(tensors) > 3 else ""
    message = f"{parent.ref}: NaN or infinity in {', '.join(tensors[:3])}{more}"
    if len(spoilt) == len(by_slice):
        raise InputError(f"{message}, so there would be no score; check the weights")
    warnings.warn(f"{message}: no score for {', '.join(spoilt):.200}", stacklevel=2)


def _holds(tensor: TensorPlan, prepared: Prepared) -> bool:
    """Whether the part of a tensor that a slice uses holds NaN or infinity."""
    pieces = child_bytes(prepared.parent.local, tensor, thread_scratch())
    return any(holds_not_finite(piece, tensor.dtype) for piece in pieces)

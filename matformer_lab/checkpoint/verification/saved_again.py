"""A slice that was tuned, or only saved again, by another program: what it is, in a sentence.

It is not the slice byte for byte any more. But to say so tensor by tensor would hide what matters:
whether it still is a model of that shape, and how many of its tensors are the parent's.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matformer_lab.checkpoint.manifest import Manifest, digest_of
from matformer_lab.checkpoint.verification.config_differences import same_model
from matformer_lab.common.errors import InputError
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.gemma3n import KV_TENSORS, is_notebooks, split_layer
from matformer_lab.parent.quantised import how_quantised
from matformer_lab.parent.weights.headers import TensorInfo
from matformer_lab.slicing.plan import Plan

Kind = Literal["exact", "saved again", "tuned", "quantised", "different"]
"""exact: the slice, byte for byte. saved again: its tensors are, its files are not. tuned: shapes
and config are the slice's, tensors are not. quantised: only the config is. different: anything
else."""

_FLOATS = ("BF16", "F16", "F32")


class SavedAgain(NamedTuple):
    """What became of a slice.

    Attributes:
        kind: `saved again`, `tuned` or `quantised`.
        sentence: What to tell the user.
    """

    kind: Kind
    sentence: str


def was_saved_again(folder: Path, manifest: Manifest | None) -> bool:
    """Whether another program has saved a checkpoint, or it has been by nobody known.

    A manifest vouches for a folder until transformers writes its own config.json into it, whose
    keys it sorts. Whatever else has changed then is damage.
    """
    if manifest is None:
        return True
    data = read_small(folder / "config.json")
    if digest_of(data) == manifest.files["config.json"]:
        return False
    try:
        sorted_keys = json.dumps(json.loads(data), indent=2, sort_keys=True)
    except ValueError:
        return False
    return data.decode(errors="replace").strip() == sorted_keys


def saved_again(
    plan: Plan,
    config: Mapping[str, Any],
    layout: Mapping[str, TensorInfo],
    differing: Sequence[str],
    folder: Path,
) -> SavedAgain | None:
    """What became of a slice, if shapes and config still are its own; else None.

    Args:
        plan: What the checkpoint was.
        config: Its config.json.
        layout: Its tensors.
        differing: The names of those that are in both and not equal.
        folder: The checkpoint.
    """
    try:
        if is_notebooks(config) or not same_model(plan.config, config):
            return None
    except InputError:
        return None
    if how := how_quantised(config, layout):
        of = f"config is that of slice {plan.slice.name}"
        return SavedAgain("quantised", f"quantised ({how}), {of}; its tensors cannot be compared")
    expected = {tensor.name: tensor for tensor in plan.tensors}
    missing = expected.keys() - layout.keys()
    names = missing | (layout.keys() - expected.keys())
    if not all(_is_unread(name, plan) for name in names):
        return None
    for name in expected.keys() & layout.keys():
        ours, theirs = expected[name], layout[name]
        if ours.shape != theirs.shape:
            return None
        if ours.dtype != theirs.dtype and {ours.dtype, theirs.dtype} - {*_FLOATS}:
            return None
    of = f"shapes and config are those of slice {plan.slice.name}"
    left = _left_out(missing, folder)
    read = [name for name in differing if not _is_unread(name, plan)]
    if not read:
        whole = f"saved again: every tensor is that of slice {plan.slice.name}, bit for bit"
        but = ", but for K/V that nothing reads" if differing else ""
        files = "; the other files are not as `slice` wrote them"
        return SavedAgain("saved again", f"{whole}{but}{files}{left}")
    differing = read
    count = f"{len(differing)} tensor{'s differ' if len(differing) > 1 else ' differs'}"
    dtypes = {layout[name].dtype for name in differing} - {plan.parent.dtype}
    stored = f", stored as {' and '.join(sorted(dtypes))}" if dtypes else ""
    sentence = f"tuned: {count} (such as {differing[0]}{stored}), {of}{left}"
    return SavedAgain("tuned", sentence)


def _is_unread(name: str, plan: Plan) -> bool:
    """Whether a tensor of the child is K/V of a layer that shares K/V."""
    layer, rest = split_layer(name.removeprefix(plan.prefix))
    return layer is not None and layer >= plan.text.first_kv_shared_layer and rest in KV_TENSORS


def _left_out(missing: Collection[str], folder: Path) -> str:
    if not missing:
        return ""
    return (
        f"; {len(missing)} K/V tensors that nothing reads are left out, which some runtimes "
        f"refuse: `matformer-lab slice {folder} --slice full --out DIR` fills them in"
    )

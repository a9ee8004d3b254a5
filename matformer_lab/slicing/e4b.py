"""Whether a parent is built like Gemma 3n E4B, whose slices Google published, or is one of them.

A published slice of a slice would cut and skip a second time, and its name would be wrong.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.shipped import shipped_folder
from matformer_lab.gemma3n import TextConfig, read_text_config
from matformer_lab.parent.parent import Parent

if TYPE_CHECKING:
    from matformer_lab.slicing.notation.spec import SliceSpec

E4B: Final = "google/gemma-3n-E4B"
"""The Hub id of the parent whose slices Google published."""

_MANIFEST: Final = "matformer_lab.json"
_WHOLE: Final = ("e4b", "uniform-full")


@cache
def e4b_config() -> TextConfig:
    """The text config of E4B."""
    path = shipped_folder("configs") / "gemma-3n-E4B.text-config.json"
    return read_text_config(strict_json(path.read_bytes(), str(path)), str(path))


def check_is_e4b(parent: Parent, published: Sequence["SliceSpec"]) -> None:
    """Raise `InputError`, saying what the parent is, unless it is built like E4B.

    Args:
        parent: Of any size: a miniature has E4B's layers with other widths.
        published: The published slices.
    """
    known = slice_like(parent.text, published)
    made = _made_as(parent)
    if known == "e4b" and made in (None, *_WHOLE):
        return
    if made is not None or known is not None:
        what = f"is a slice already, apparently {known}"
        if made is not None:
            what = f"is a slice already: {made}"
    else:
        what = _unlike_e4b(parent.text)
    raise InputError(
        f"the published slices are E4B's, of 35 layers; {parent.name} {what}. Use `full`, a width "
        "(1/2) or a slice of your own"
    )


def _unlike_e4b(text: TextConfig) -> str:
    """How a parent that is no published slice differs from E4B."""
    e4b = e4b_config()
    if text.num_hidden_layers != e4b.num_hidden_layers:
        return f"has {text.num_hidden_layers} layers, {text.num_kv_shared_layers} sharing K/V"
    if text.num_kv_shared_layers != e4b.num_kv_shared_layers:
        return f"has 35 layers too, but {text.num_kv_shared_layers} of them share K/V, not 15"
    if text.layer_types != e4b.layer_types:
        return "has 35 layers too, but other ones have full attention"
    narrow, wide = min(text.intermediate_size), max(text.intermediate_size)
    if narrow == wide:
        return f"has 35 layers too, but FFNs of {wide}, not {e4b.intermediate_size[0]}"
    return f"has 35 layers too, but FFNs of {narrow} to {wide}, and E4B's all have one width"


def slice_like(text: TextConfig, published: Sequence["SliceSpec"]) -> str | None:
    """The published slice whose layers a parent has; `e4b` for E4B's own; None for neither.

    Widths count relative to each other, unless the parent has E4B's hidden size.
    """
    e4b = e4b_config()
    for spec in published:
        slice_ = spec.resolve(e4b)
        kept = slice_.kept(e4b.num_hidden_layers)
        shared = sum(layer >= e4b.first_kv_shared_layer for layer in kept)
        if text.layer_types != tuple(e4b.layer_types[layer] for layer in kept):
            continue
        scales = {
            Fraction(here, there)
            for here, there in zip(text.intermediate_size, slice_.widths, strict=True)
        }
        scaled = len(scales) == 1 and (text.hidden_size != e4b.hidden_size or scales == {1})
        if scaled and text.num_kv_shared_layers == shared:
            return spec.name
    return None


def _made_as(parent: Parent) -> str | None:
    """The name of the slice that a folder says it was written as; None if it does not say."""
    path = (parent.folder or shipped_folder("configs")) / _MANIFEST
    if parent.text.hidden_size == e4b_config().hidden_size or not path.is_file():
        return None  # of E4B's size: its widths say it
    try:
        made = strict_json(read_small(path), str(path)).get("slice")
    except InputError:
        return None
    name = made.get("name") if isinstance(made, dict) else None
    return name if isinstance(name, str) else None

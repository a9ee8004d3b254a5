"""The built-in slices with their sizes, for E4B without any checkpoint at hand."""

from dataclasses import dataclass
from typing import Any, Final

from matformer_lab.common.shipped import shipped_folder
from matformer_lab.common.strict_json import strict_json
from matformer_lab.gemma3n import TEXT_ONLY_PREFIX, expected_tensors, read_text_config
from matformer_lab.parent.headers import TensorInfo
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent, build_parent
from matformer_lab.slicing.notation.catalog import PUBLISHED, resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of
from matformer_lab.slicing.slice import Published

E4B: Final = "google/gemma-3n-E4B"


@dataclass(frozen=True)
class BuiltinSlice:
    """One row of `matformer-lab slices`. Parameter counts are those of the text model."""

    name: str
    num_hidden_layers: int
    effective: int
    text: int
    published: Published

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "num_hidden_layers": self.num_hidden_layers,
            "params": {"text": self.text, "effective": self.effective},
            "published": self.published.model_dump(),
        }


def e4b_text_parent() -> Parent:
    """E4B's text part as its published config describes it: layout only, there are no weights."""
    path = shipped_folder("configs") / "gemma-3n-E4B.text-config.json"
    config = strict_json(path.read_bytes(), str(path))
    text = read_text_config(config, str(path))
    tensors = {
        TEXT_ONLY_PREFIX + expected.name: TensorInfo("BF16", expected.shape, "model.safetensors", 0)
        for expected in expected_tensors(text)
    }
    return build_parent(ref=E4B, name=E4B, config=config, tensors=tensors, folder=None)


def builtin_slices(parent_ref: str | None = None) -> tuple[BuiltinSlice, ...]:
    """The published slices, counted for E4B or for the parent given."""
    parent = open_parent(parent_ref) if parent_ref else e4b_text_parent()
    found = []
    for slice_ in resolve_slices([PUBLISHED], parent):
        assert slice_.published is not None
        size = sizes_of(make_plan(parent, slice_))
        layers = len(slice_.widths)
        row = BuiltinSlice(slice_.name, layers, size.effective, size.text, slice_.published)
        found.append(row)
    return tuple(found)

"""The built-in slices with their sizes; for E4B no checkpoint is needed."""

from dataclasses import dataclass
from typing import Any

from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.shipped import shipped_folder
from matformer_lab.gemma3n import TEXT_ONLY_PREFIX, expected_tensors, read_text_config
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent, build_parent
from matformer_lab.parent.weights.headers import TensorInfo
from matformer_lab.parent.weights.weight_files import SINGLE_FILE
from matformer_lab.slicing.e4b import E4B
from matformer_lab.slicing.notation.catalog import PUBLISHED, resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of
from matformer_lab.slicing.slice import Published


@dataclass(frozen=True)
class BuiltinSlice:
    """A built-in slice with its sizes: a row of `matformer-lab slices`.

    Attributes:
        name: The slice's name.
        num_hidden_layers: Number of kept layers.
        effective: Effective parameters, as `Sizes.effective` counts them.
        text: Parameters of the text model, as `Sizes.text` counts them.
        published: What Google published for it.
    """

    name: str
    num_hidden_layers: int
    effective: int
    text: int
    published: Published

    def as_json(self) -> dict[str, Any]:
        """The row in `matformer-lab slices --json`."""
        return {
            "name": self.name,
            "num_hidden_layers": self.num_hidden_layers,
            "params": {"text": self.text, "effective": self.effective},
            "published": self.published.model_dump(),
        }


def e4b_text_parent() -> Parent:
    """E4B's text part as a parent without weights, laid out from its published config."""
    path = shipped_folder("configs") / "gemma-3n-E4B.text-config.json"
    config = strict_json(path.read_bytes(), str(path))
    text = read_text_config(config, str(path))
    tensors = {
        TEXT_ONLY_PREFIX + expected.name: TensorInfo("BF16", expected.shape, SINGLE_FILE, 0)
        for expected in expected_tensors(text)
    }
    return build_parent(ref=E4B, name=E4B, config=config, tensors=tensors, folder=None)


def builtin_slices(parent_ref: str | None = None) -> tuple[BuiltinSlice, ...]:
    """The slices that Google published, with their sizes.

    Args:
        parent_ref: The parent to count for, as `open_parent` takes it; E4B if None, which needs
            neither weights nor network.

    Returns:
        The slices in the order of `configs/published.yaml`.

    Raises:
        InputError: The parent cannot be opened, or a published slice does not fit it.

    Examples:
        >>> import matformer_lab as ml
        >>> first = ml.builtin_slices()[0]
        >>> first.name, first.effective, first.published.effective_params_b
        ('e4b', 3980491248, 3.98)
    """
    parent = open_parent(parent_ref) if parent_ref else e4b_text_parent()
    found = []
    for slice_ in resolve_slices([PUBLISHED], parent):
        assert slice_.published is not None
        size = sizes_of(make_plan(parent, slice_))
        layers = len(slice_.widths)
        row = BuiltinSlice(slice_.name, layers, size.effective, size.text, slice_.published)
        found.append(row)
    return tuple(found)

"""The plan: for every tensor of the child, which part of which parent tensor it is.

A pure function of (parent layout, slice). The writer, the live model, the sizes, the verifier and
the runtime verdicts all read it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from matformer_lab.common.spans import Span, merged
from matformer_lab.gemma3n import (
    TEXT_ONLY_PREFIX,
    Cut,
    TextConfig,
    cut_of,
    is_lm_head,
    layer_tensor,
    read_text_config,
    split_layer,
)
from matformer_lab.parent.headers import ITEM_SIZE, TensorInfo
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.child_config import child_config
from matformer_lab.slicing.slice import Slice


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the child: `source` restricted to `ranges` (start, stop) along `axis`.

    `axis` is 0 (rows), 1 (columns) or None for the whole tensor.
    """

    name: str
    source: str
    info: TensorInfo
    axis: int | None = None
    ranges: tuple[Span, ...] = ()

    @property
    def dtype(self) -> str:
        return self.info.dtype

    @cached_property
    def shape(self) -> tuple[int, ...]:
        if self.axis is None:
            return self.info.shape
        shape = list(self.info.shape)
        shape[self.axis] = sum(stop - start for start, stop in self.ranges)
        return tuple(shape)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_SIZE[self.dtype]


@dataclass(frozen=True)
class Plan:
    """The child of `parent` that `slice` means: its config.json and its tensors.

    Tensors stand in the order in which the parent's files hold their sources.
    """

    parent: Parent
    slice: Slice
    text_only: bool
    config: Mapping[str, Any] = field(repr=False)
    text: TextConfig = field(repr=False)
    prefix: str
    tensors: tuple[TensorPlan, ...] = field(repr=False)

    @property
    def kept(self) -> tuple[int, ...]:
        """Parent indices of the kept layers."""
        return self.slice.kept(self.parent.text.num_hidden_layers)

    @property
    def widths(self) -> Mapping[int, int]:
        """The FFN width of each kept layer, by its index in the parent."""
        return self.slice.by_layer(self.parent.text.num_hidden_layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors: the `total_size` of the checkpoint."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def text_tensors(self) -> Mapping[str, TensorPlan]:
        """The text model's tensors by name without the prefix."""
        return {
            tensor.name.removeprefix(self.prefix): tensor
            for tensor in self.tensors
            if tensor.name.startswith(self.prefix)
        }


def make_plan(parent: Parent, slice_: Slice, *, text_only: bool = False) -> Plan:
    """Plan the child. `text_only` drops the towers and plans a `gemma3n_text` checkpoint."""
    text_only = text_only or not parent.multimodal
    kept = slice_.kept(parent.text.num_hidden_layers)
    new_index = {source: index for index, source in enumerate(kept)}
    child_prefix = TEXT_ONLY_PREFIX if text_only and parent.multimodal else parent.prefix
    tensors = []
    in_file_order = sorted(parent.tensors.items(), key=lambda item: (item[1].file, item[1].offset))
    for source, info in in_file_order:
        if is_lm_head(source):
            continue  # tied to embed_tokens; mlx-lm refuses a checkpoint that repeats it
        if not source.startswith(parent.prefix):
            if not text_only:
                tensors.append(TensorPlan(source, source, info))
            continue
        bare = source.removeprefix(parent.prefix)
        layer, rest = split_layer(bare)
        if layer is not None:
            if layer not in new_index:
                continue
            bare = layer_tensor(new_index[layer], rest)
        width = None if layer is None else slice_.widths[new_index[layer]]
        axis, ranges = _selection(cut_of(bare), info, width, kept, parent.text)
        tensors.append(TensorPlan(child_prefix + bare, source, info, axis, ranges))
    config = child_config(parent, slice_, text_only=text_only)
    text = read_text_config(config, "planned config.json")
    return Plan(parent, slice_, text_only, config, text, child_prefix, tuple(tensors))


def _selection(
    cut: Cut, info: TensorInfo, width: int | None, kept: Sequence[int], text: TextConfig
) -> tuple[int | None, tuple[Span, ...]]:
    if cut is Cut.WHOLE:
        return None, ()
    axis = 0 if cut in (Cut.FFN_ROWS, Cut.LAYER_ROWS) else 1
    if cut in (Cut.FFN_ROWS, Cut.FFN_COLUMNS):
        assert width is not None
        ranges: tuple[Span, ...] = ((0, width),)
    else:
        size = text.hidden_size_per_layer_input
        ranges = merged((layer * size, (layer + 1) * size) for layer in kept)
    if ranges == ((0, info.shape[axis]),):
        return None, ()
    return axis, ranges

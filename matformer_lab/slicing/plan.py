"""The plan: for every tensor of the child, which part of which parent tensor it is.

A pure function of (parent layout, slice). The writer, the live model, the sizes, the verifier and
the runtime verdicts all read it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from matformer_lab.gemma3n import (
    Cut,
    TextConfig,
    cut_of,
    read_text_config,
    split_layer,
    text_part,
)
from matformer_lab.parent.headers import ITEM_SIZE, TensorInfo
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.slices import Slice


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the child: `source` restricted to `ranges` (start, stop) along `axis`.

    `axis` is 0 (rows), 1 (columns) or None for the whole tensor.
    """

    name: str
    source: str
    info: TensorInfo
    axis: int | None = None
    ranges: tuple[tuple[int, int], ...] = ()

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
    def nbytes(self) -> int:
        """Bytes of all tensors: the `total_size` of the checkpoint."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def _repr_html_(self) -> str:
        from matformer_lab.slicing.tables import plan_html

        return plan_html(self)

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
    child_prefix = "model." if text_only and parent.multimodal else parent.prefix
    tensors = []
    in_file_order = sorted(parent.tensors.items(), key=lambda item: (item[1].file, item[1].offset))
    for source, info in in_file_order:
        if source == "lm_head.weight" or source.endswith(".lm_head.weight"):
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
            bare = f"layers.{new_index[layer]}.{rest}"
        width = None if layer is None else slice_.widths[new_index[layer]]
        axis, ranges = _selection(cut_of(bare), info, width, kept, parent.text)
        tensors.append(TensorPlan(child_prefix + bare, source, info, axis, ranges))
    config = child_config(parent, slice_, text_only=text_only)
    text = read_text_config(config, "planned config.json")
    return Plan(parent, slice_, text_only, config, text, child_prefix, tuple(tensors))


def _selection(
    cut: Cut, info: TensorInfo, width: int | None, kept: Sequence[int], text: TextConfig
) -> tuple[int | None, tuple[tuple[int, int], ...]]:
    if cut is Cut.WHOLE:
        return None, ()
    axis = 0 if cut in (Cut.FFN_ROWS, Cut.LAYER_ROWS) else 1
    if cut in (Cut.FFN_ROWS, Cut.FFN_COLUMNS):
        assert width is not None
        ranges: tuple[tuple[int, int], ...] = ((0, width),)
    else:
        ranges = _layer_ranges(kept, text.hidden_size_per_layer_input)
    if ranges == ((0, info.shape[axis]),):
        return None, ()
    return axis, ranges


def _layer_ranges(kept: Sequence[int], size: int) -> tuple[tuple[int, int], ...]:
    """The index ranges of the kept layers' blocks of `size`, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for layer in kept:
        start, stop = layer * size, (layer + 1) * size
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((start, stop))
    return tuple(ranges)


def child_config(parent: Parent, slice_: Slice, *, text_only: bool) -> dict[str, Any]:
    """The parent's config.json with only the keys that must change, in the parent's order.

    Never through transformers, whose round trip drops keys that other runtimes need (5.x drops
    `rope_theta`). Per-layer lists follow the kept layers by their source index; layers at or past
    the parent's first K/V-sharing layer stay sharing.
    """
    text = parent.text
    kept = slice_.kept(text.num_hidden_layers)
    written = text_part(parent.config)
    changes: dict[str, Any] = {
        "num_hidden_layers": len(kept),
        "num_kv_shared_layers": sum(layer >= text.first_kv_shared_layer for layer in kept),
        "layer_types": [text.layer_types[layer] for layer in kept],
        "activation_sparsity_pattern": [text.activation_sparsity_pattern[n] for n in kept],
        "intermediate_size": list(slice_.widths),
    }
    if isinstance(written.get("intermediate_size"), int) and len(set(slice_.widths)) == 1:
        changes["intermediate_size"] = slice_.widths[0]
    child_text = {**written, **changes}
    if not parent.multimodal:
        return child_text
    if not text_only:
        return {**parent.config, "text_config": child_text}
    top = parent.config
    inherited = (
        *("torch_dtype", "dtype", "transformers_version"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),
    )
    from_top = {key: top[key] for key in inherited if key in top and key not in child_text}
    return {
        "architectures": ["Gemma3nForCausalLM"],
        **child_text,
        **from_top,
        "model_type": "gemma3n_text",
    }

"""The plan of a child: for each of its tensors, which part of which parent tensor it is.

A pure function of the parent's layout and the slice. The writer, the live model, the sizes, the
verifier and the runtime verdicts are all derived from it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.common.spans import Span, merged
from matformer_lab.gemma3n import (
    LM_HEAD,
    TEXT_ONLY_PREFIX,
    Cut,
    TextConfig,
    cut_of,
    layer_tensor,
    read_text_config,
    split_layer,
)
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.parent.weights.headers import TensorInfo, data_bytes
from matformer_lab.parent.weights.unexpected import channels_last
from matformer_lab.slicing.child_config import child_config
from matformer_lab.slicing.filling import (
    EVERY_GAP,
    Filling,
    Gap,
    MissingKV,
    check_kv_source,
    config_filling,
    missing_kv,
)
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.slice import Slice


@dataclass(frozen=True)
class TensorPlan:
    """A tensor of the child, as a part of a tensor of the parent.

    Attributes:
        name: Its full name in the child.
        source: The full name of the parent's tensor.
        info: Where the parent's tensor lies.
        axis: 0 if it is some of the rows, 1 for some of the columns, None for the whole tensor.
        ranges: The rows or columns, as spans of the parent's indices in ascending order; empty for
            the whole tensor.
        origin: The checkpoint that `source` is of, where that is not the plan's parent.
    """

    name: str
    source: str
    info: TensorInfo
    axis: int | None = None
    ranges: tuple[Span, ...] = ()
    origin: Parent | None = field(default=None, repr=False, compare=False)

    @property
    def dtype(self) -> str:
        """The safetensors dtype name, which is the source's."""
        return self.info.dtype

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape in the child."""
        if self.axis is None:
            return self.info.shape
        shape = list(self.info.shape)
        shape[self.axis] = sum(stop - start for start, stop in self.ranges)
        return tuple(shape)

    @property
    def numel(self) -> int:
        """Number of elements in the child."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the child."""
        return data_bytes(self.dtype, self.shape)


@dataclass(frozen=True)
class Plan:
    """A child of a parent: its config.json and its tensors.

    Attributes:
        parent: The parent.
        slice: The slice that the child is.
        text_only: Whether the child is a `gemma3n_text` checkpoint, without towers.
        config: The child's config.json.
        text: The text part of the child's config, checked.
        prefix: What precedes the names of the child's text tensors.
        tensors: The child's tensors, in the order of their sources in the parent's files; last
            those that were filled in.
        filling: What the child has that its parent lacks.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> plan = ml.make_plan(parent, ml.resolve_slice("1/2", parent))
        >>> tensor = plan.text_tensors()["layers.0.mlp.up_proj.weight"]
        >>> tensor.info.shape, tensor.shape, tensor.axis, tensor.ranges
        ((64, 16), (32, 16), 0, ((0, 32),))
    """

    parent: Parent
    slice: Slice
    text_only: bool
    config: Mapping[str, Any] = field(repr=False)
    text: TextConfig = field(repr=False)
    prefix: str
    tensors: tuple[TensorPlan, ...] = field(repr=False)
    filling: Filling = field(default_factory=Filling)

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
        """Bytes of all tensors: the `total_size` in the child's index file."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def text_tensors(self) -> Mapping[str, TensorPlan]:
        """The text model's tensors, by name without the prefix; with the LM head, if it has one."""
        return {
            tensor.name.removeprefix(self.prefix): tensor
            for tensor in self.tensors
            if tensor.name.startswith(self.prefix) or tensor.name == LM_HEAD
        }


def make_plan(
    parent: Parent | StrPath,
    slice_: Slice | str,
    *,
    text_only: bool = False,
    as_is: bool = False,
    kv_from: Parent | StrPath | None = None,
) -> Plan:
    """Plan the child that a slice of a parent describes, without reading weights.

    What runtimes want and the parent lacks is filled in (`filling`): the two rope numbers that
    transformers 5 does not write, `layer_types`, and the K/V tensors of layers that share K/V.

    Args:
        parent: The parent, or what `open_parent` accepts.
        slice_: A slice of `parent`, or what `resolve_slice` accepts.
        text_only: Leave out the towers of a full parent and plan a `gemma3n_text` checkpoint. The
            child of a text-only parent is text-only in any case.
        as_is: Fill in nothing.
        kv_from: The checkpoint from which to take K/V tensors that the parent lacks, which has to
            have the same layers; None: they are copies of those that the layers share.

    Raises:
        InputError: The parent's towers are in a layout that published checkpoints do not have; or
            `kv_from` does not have what the parent lacks.

    Examples:
        >>> import matformer_lab as ml
        >>> plan = ml.make_plan("tiny", "e2b")
        >>> plan.config["num_hidden_layers"], plan.config["num_kv_shared_layers"]
        (30, 10)
    """
    if as_is and kv_from is not None:
        raise InputError(
            "`as_is` fills in nothing, so `kv_from` would do nothing; leave out one of them"
        )
    fill: frozenset[Gap] = frozenset() if as_is else EVERY_GAP
    opened = open_parent(parent)
    return plan_filled(
        opened,
        resolve_slice(slice_, opened),
        text_only=text_only,
        fill=fill,
        kv_from=None if kv_from is None else open_parent(kv_from),
    )


def plan_filled(
    parent: Parent,
    slice_: Slice,
    *,
    text_only: bool,
    fill: frozenset[Gap],
    kv_from: Parent | None = None,
) -> Plan:
    """As `make_plan`, filling in some of the gaps.

    Args:
        parent: As for `make_plan`, as are the others.
        slice_: A slice of `parent`.
        text_only: Whether to leave out the towers.
        fill: What to fill in where the parent lacks it.
        kv_from: The checkpoint from which to take K/V tensors.
    """
    text_only = text_only or not parent.multimodal
    if not text_only and (tower := channels_last(parent.tensors)):
        raise InputError(
            f"{parent.ref}: its towers are in MLX's layout ({tower} has its channels last), which "
            "no other runtime reads; give the original, or `text_only`"
        )
    kept = slice_.kept(parent.text.num_hidden_layers)
    new_index = {source: index for index, source in enumerate(kept)}
    child_prefix = TEXT_ONLY_PREFIX if text_only and parent.multimodal else parent.prefix
    tensors = []
    in_file_order = sorted(parent.tensors.items(), key=lambda item: (item[1].file, item[1].offset))
    for source, info in in_file_order:
        if source == LM_HEAD:
            if parent.separate_head:
                tensors.append(TensorPlan(source, source, info))
            continue  # else it repeats the embeddings, and mlx-lm refuses a checkpoint with it
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
        part = _selection(cut_of(bare), info, width, kept, parent.text)
        tensors.append(TensorPlan(child_prefix + bare, source, info, part.axis, part.ranges))
    kv: dict[str, int] = {}
    if Gap.KV in fill:
        if kv_from is not None:
            check_kv_source(parent, kv_from)
        for one in missing_kv(parent):
            if one.layer not in new_index:
                continue
            name = child_prefix + layer_tensor(new_index[one.layer], one.rest)
            kv[name] = new_index[one.layer]
            tensors.append(_filled_in(name, one, parent, kv_from))
    config = child_config(parent, slice_, text_only=text_only, fill=fill)
    text = read_text_config(config, "planned config.json")
    filling = Filling(
        asked=fill,
        config=tuple(config_filling(parent, fill)),
        kv_layers=tuple(dict.fromkeys(kv.values())),
        kv_tensors=tuple(kv),
        kv_from=kv_from if kv else None,
    )
    return Plan(parent, slice_, text_only, config, text, child_prefix, tuple(tensors), filling)


def _filled_in(name: str, missing: MissingKV, parent: Parent, kv_from: Parent | None) -> TensorPlan:
    """A K/V tensor that the parent lacks: the one that is read in its place, or another's."""
    if kv_from is None:
        source = parent.prefix + layer_tensor(missing.shared, missing.rest)
        return TensorPlan(name, source, parent.tensors[source])
    source = kv_from.prefix + layer_tensor(missing.layer, missing.rest)
    return TensorPlan(name, source, kv_from.tensors[source], origin=kv_from)


class _Selection(NamedTuple):
    axis: int | None
    ranges: tuple[Span, ...]


_WHOLE = _Selection(None, ())


def _selection(
    cut: Cut, info: TensorInfo, width: int | None, kept: Sequence[int], text: TextConfig
) -> _Selection:
    """The part of a parent tensor that a cut selects; one that selects all of it is whole."""
    if cut is Cut.WHOLE:
        return _WHOLE
    axis = 0 if cut in (Cut.FFN_ROWS, Cut.LAYER_ROWS) else 1
    if cut in (Cut.FFN_ROWS, Cut.FFN_COLUMNS):
        assert width is not None
        ranges: tuple[Span, ...] = ((0, width),)
    else:
        size = text.hidden_size_per_layer_input
        ranges = merged((layer * size, (layer + 1) * size) for layer in kept)
    if ranges == ((0, info.shape[axis]),):
        return _WHOLE
    return _Selection(axis, ranges)

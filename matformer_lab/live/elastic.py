"""Live slices: `Gemma3nForCausalLM` models whose weights are views into one loaded parent.

A sweep loads the parent once and creates any number of slices from it; each of them costs only its
module objects. `embed_tokens_per_layer` is not a plain view: selecting its columns would copy
gigabytes, so a live model looks up whole rows and then selects the blocks of the kept layers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.paths import StrPath
from matformer_lab.gemma3n import (
    EMBED_TOKENS_PER_LAYER,
    FFN_WEIGHTS,
    LM_HEAD,
    PER_LAYER_MODEL_PROJECTION,
    split_layer,
)
from matformer_lab.live.devices import resolve_device
from matformer_lab.live.empty_model import empty_model
from matformer_lab.live.multimodal import multimodal, tower_names, with_towers
from matformer_lab.live.per_layer_embedding import KeptPerLayerEmbedding, KeptPerLayerProjection
from matformer_lab.live.siblings import sibling
from matformer_lab.live.stored_dtype import ConvertingLinear, keeps_stored_dtype, use_stored
from matformer_lab.parent.fetch import fetched
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import TensorPlan, make_plan
from matformer_lab.slicing.slice import Slice

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM, Gemma3nForConditionalGeneration

_ALIGNED_COLUMNS: Final = 64
"""Rows of a copied tensor start at a multiple of this many elements."""

_FIRSTS_KEPT: Final = 8
"""Models that later ones are made from: each takes as long to make as a small one's batch."""

_TORCH_DTYPES: Final = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True)
class ElasticParent:
    """A parent's text weights in memory, from which slices are created as live models.

    Attributes:
        parent: The parent, with a local folder.
        dtype: The compute dtype, of activations and of weights when they are used.
        device: Where the weights are, except `embed_tokens_per_layer`, which stays on the host.
        weights: The parent's text tensors, by name without the checkpoint's prefix
            (`layers.0.mlp.up_proj.weight`). On the CPU, large ones in the stored dtype are views of
            the memory-mapped files, also where a 16-bit parent computes in float32: these are
            converted where they are used (`stored_dtype`).
        towers: The parent's full model with its vision and audio towers and no text weights; None
            where they were not asked for.

    Examples:
        >>> import matformer_lab as ml
        >>> elastic = ml.ElasticParent.load("tiny")
        >>> [elastic.live(name).config.num_hidden_layers for name in ("e4b", "e2b")]
        [35, 30]
    """

    parent: Parent
    dtype: torch.dtype
    device: str
    weights: Mapping[str, Tensor] = field(repr=False)
    towers: "Gemma3nForConditionalGeneration | None" = field(default=None, repr=False)

    @classmethod
    def load(
        cls,
        parent: Parent | StrPath,
        *,
        slices: Sequence[Slice | str] | None = None,
        dtype: torch.dtype | str | None = None,
        device: str = "cpu",
        towers: bool = False,
        progress: bool = True,
    ) -> "ElasticParent":
        """Load the parent's text tensors, and its towers if they are asked for.

        Args:
            parent: An opened parent, or what `open_parent` accepts. Of a Hub parent, the weights
                that `slices` need are downloaded first.
            slices: Load only what these slices need, so that a device that is too small for the
                parent can hold a slice of it; None: load everything.
            dtype: The compute dtype, as a torch dtype or its name; None: as stored.
            device: A torch device, or `auto`: the first GPU if there is one, else the CPU.
            towers: Load the vision and audio towers too, for `live_multimodal`. They need timm and
                torchvision.
            progress: Whether to show a progress bar while downloading.

        Raises:
            InputError: When the parent cannot be read, a slice does not fit it, the device or
                dtype does not exist, or towers are asked for that the parent has not.

        Examples:
            >>> import matformer_lab as ml
            >>> some = ml.ElasticParent.load("tiny", slices=["1/2", "e2b"], dtype="bfloat16")
            >>> some.dtype, some.device
            (torch.bfloat16, 'cpu')
        """
        opened = open_parent(parent)
        chosen = None if slices is None else [resolve_slice(one, opened) for one in slices]
        beside = tower_names(opened) if towers else []
        reading = [
            *_tensors_to_read(opened, chosen),
            *(TensorPlan(name, name, opened.tensors[name]) for name in beside),
        ]
        opened = fetched(opened, reading, progress=progress)
        dtype = _TORCH_DTYPES[opened.dtype] if dtype is None else _torch_dtype(dtype)
        device = resolve_device(device)
        needed = _needed_parts(opened, chosen)
        weights = {}
        for full, tensor in _open_tensors(opened, opened.local, _text_names(opened)):
            name = full.removeprefix(opened.prefix)
            if name == EMBED_TOKENS_PER_LAYER:
                weights[name] = tensor
            elif name in needed:
                part = _part_of(tensor, needed[name])
                kept = keeps_stored_dtype(tensor, device, dtype)
                weights[name] = part if kept else _moved(part, device, dtype)
        if not towers:
            return cls(opened, dtype, device, weights)
        tower_weights = dict(_open_tensors(opened, opened.local, beside))
        full_model = with_towers(opened, tower_weights, dtype, device)
        return cls(opened, dtype, device, weights, full_model)

    def live(self, slice_: Slice | str) -> "Gemma3nForCausalLM":
        """The slice as a text model that shares this parent's memory.

        Args:
            slice_: A slice of this parent, or what `resolve_slice` accepts.

        Returns:
            The model, in eval mode and without gradients.

        Raises:
            InputError: When the slice does not fit the parent, or needs more than was loaded.

        Examples:
            >>> import matformer_lab as ml
            >>> ml.ElasticParent.load("tiny").live("1/2").config.intermediate_size[:2]
            [32, 32]
        """
        slice_ = resolve_slice(slice_, self.parent)
        plan = make_plan(self.parent, slice_, text_only=True)
        model = empty_model(plan, self.dtype, self.device)
        built = set(model.model.state_dict())
        planned = plan.text_tensors()
        projection = planned[PER_LAYER_MODEL_PROJECTION]
        replaced = {EMBED_TOKENS_PER_LAYER}
        if projection.axis is not None:
            replaced.add(PER_LAYER_MODEL_PROJECTION)
            model.model.per_layer_model_projection = KeptPerLayerProjection(
                self._source(projection), projection.ranges
            )
        views = {
            name: self._view(tensor)
            for name, tensor in planned.items()
            if name in built and name not in replaced
        }
        missing = built - set(views) - replaced
        assert not missing, f"an opened parent has every tensor, yet {missing} are missing"
        stored = {name: view for name, view in views.items() if view.dtype != self.dtype}
        use_stored(model, stored, self.dtype)
        model.model.load_state_dict(views, strict=False, assign=True)
        model.model.embed_tokens_per_layer = KeptPerLayerEmbedding(
            self.weights[EMBED_TOKENS_PER_LAYER],
            plan.kept,
            plan.text.hidden_size_per_layer_input,
            self.dtype,
            self.device,
        )
        if LM_HEAD in planned:
            head = self._view(planned[LM_HEAD])
            if head.dtype == self.dtype:
                model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
            else:
                model.lm_head = ConvertingLinear(head, self.dtype)
        elif isinstance(model.lm_head, torch.nn.Linear):
            model.tie_weights()
        model.requires_grad_(False)
        model.train(False)
        return model

    def live_multimodal(self, slice_: Slice | str) -> "Gemma3nForConditionalGeneration":
        """The slice as a model that sees and hears, and shares this parent's memory.

        Its towers are the parent's, the same modules for every slice.

        Args:
            slice_: A slice of this parent, or what `resolve_slice` accepts.

        Returns:
            The model, in eval mode and without gradients.

        Raises:
            InputError: As for `live`; and when the parent was loaded without its towers.
        """
        if self.towers is None:
            raise InputError(
                f"the towers of {self.parent.ref} were not loaded; ElasticParent.load(..., "
                "towers=True) loads them"
            )
        slice_ = resolve_slice(slice_, self.parent)
        return multimodal(self.towers, self.live(slice_), make_plan(self.parent, slice_))

    def live_together(
        self,
        slices: Mapping[str, Slice],
        firsts: "dict[tuple[int, ...], Gemma3nForCausalLM] | None" = None,
    ) -> "dict[str, Gemma3nForCausalLM]":
        """Slices as models that share their modules too where they keep the same layers.

        They are made in a fraction of the time, and are for scoring alone: what is done to the
        modules of one is done to those of the others.

        Args:
            slices: Slices of this parent, by any name.
            firsts: A slice for each set of skipped layers, left by an earlier call and completed
                by this one, so that it need not be made again. The latest few are kept.

        Raises:
            InputError: As for `live`.
        """
        made: dict[str, Gemma3nForCausalLM] = {}
        firsts = {} if firsts is None else firsts
        for name, slice_ in slices.items():
            first = firsts.get(slice_.skipped)
            if first is None:
                made[name] = firsts[slice_.skipped] = self.live(slice_)
                if len(firsts) > _FIRSTS_KEPT:
                    del firsts[next(iter(firsts))]
                continue
            planned = make_plan(self.parent, slice_, text_only=True).text_tensors()
            views = {
                tensor: self._view(plan)
                for tensor, plan in planned.items()
                if split_layer(tensor).rest in FFN_WEIGHTS.values()
            }
            made[name] = sibling(first, slice_.widths, views)
        return made

    def _source(self, tensor: TensorPlan) -> Tensor:
        name = tensor.source.removeprefix(self.parent.prefix)
        if name not in self.weights:
            raise InputError(
                f"{name} was not loaded; include this slice in `slices` when loading the parent"
            )
        return self.weights[name]

    def _view(self, tensor: TensorPlan) -> Tensor:
        view = _part_of(self._source(tensor), _leading(tensor))
        if view.shape != tensor.shape:
            raise InputError(
                f"{tensor.source}: {tuple(view.shape)} was loaded, not {tensor.shape}; include "
                "this slice in `slices` when loading the parent"
            )
        return view


def _torch_dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise InputError(f"`dtype` is {dtype!r}; use float32, bfloat16 or float16")
    return found


class _Leading(NamedTuple):
    """The first `size` rows (`axis` 0) or columns (`axis` 1) of a tensor."""

    axis: int
    size: int


def _leading(tensor: TensorPlan) -> _Leading | None:
    """What a cut along the FFN selects; None: the whole tensor."""
    if tensor.axis is None:
        return None
    ((_, stop),) = tensor.ranges
    return _Leading(tensor.axis, stop)


def _part_of(tensor: Tensor, part: _Leading | None) -> Tensor:
    if part is None:
        return tensor
    return tensor[: part.size] if part.axis == 0 else tensor[:, : part.size]


def _tensors_to_read(parent: Parent, slices: Sequence[Slice] | None) -> list[TensorPlan]:
    """The tensors, or parts of them, that these slices need; None: all text tensors, whole."""
    if slices is None:
        return [TensorPlan(name, name, parent.tensors[name]) for name in _text_names(parent)]
    return [
        tensor for slice_ in slices for tensor in make_plan(parent, slice_, text_only=True).tensors
    ]


def _moved(tensor: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    """`tensor` on `device` in `dtype`, its rows aligned as well as those of a whole parent.

    The alignment of rows affects the last bits of a matrix product: without this, a slice of odd
    width would score slightly differently beside a wider slice than alone.
    """
    if tensor.is_contiguous() or (tensor.device == torch.device(device) and tensor.dtype == dtype):
        return tensor.to(device=device, dtype=dtype)
    rows, columns = tensor.shape
    wide = torch.empty(
        (rows, math.ceil(columns / _ALIGNED_COLUMNS) * _ALIGNED_COLUMNS), device=device, dtype=dtype
    )
    return wide[:, :columns].copy_(tensor)


def _needed_parts(parent: Parent, slices: Sequence[Slice] | None) -> dict[str, _Leading | None]:
    """By name, the part of each text tensor that the widest of `slices` needs; None: all of it."""
    if slices is None:
        return {name.removeprefix(parent.prefix): None for name in _text_names(parent)}
    needed: dict[str, _Leading | None] = {}
    for slice_ in slices:
        for name, tensor in make_plan(parent, slice_, text_only=True).text_tensors().items():
            whole = name in (EMBED_TOKENS_PER_LAYER, PER_LAYER_MODEL_PROJECTION)
            part = None if whole else _leading(tensor)
            source = tensor.source.removeprefix(parent.prefix)
            before = needed.get(source, part)
            needed[source] = None if part is None or before is None else max(part, before)
    return needed


def _text_names(parent: Parent) -> list[str]:
    """The full names of the parent's text tensors, with the LM head if it has one of its own."""
    return [
        name
        for name in parent.tensors
        if name.startswith(parent.prefix) or (name == LM_HEAD and parent.separate_head)
    ]


def _open_tensors(
    parent: Parent, folder: Path, names: Sequence[str]
) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for file in sorted({parent.tensors[name].file for name in names}):
        with _read_errors(folder / file), safe_open(folder / file, framework="pt") as opened:
            for name in names:
                if parent.tensors[name].file == file:
                    yield name, opened.get_tensor(parent.stored.get(name, name))


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Say which file cannot be read, where safetensors gives no more than the system's error."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from None

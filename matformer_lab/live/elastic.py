"""Live slices: `Gemma3nForCausalLM`s whose weights are views into one loaded parent.

A sweep loads the parent once and asks for any number of slices; each costs the module objects and
nothing else. `embed_tokens_per_layer` is the exception to plain views: cutting its columns would
copy gigabytes, so the live model looks up whole rows and keeps the kept layers' blocks.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from matformer_lab.gemma3n import (
    EMBED_TOKENS_PER_LAYER,
    PER_LAYER_MODEL_PROJECTION,
    text_part,
)
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.plan import Plan, TensorPlan, make_plan
from matformer_lab.slicing.slices import Slice

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

ALIGNED_COLUMNS = 64
TORCH_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


class KeptPerLayerEmbedding(nn.Module):
    """`embed_tokens_per_layer` of a slice, read from the parent's table.

    Input: token ids, any shape S. Output: (*S, kept layers * hidden_size_per_layer_input), scaled
    as transformers' `Gemma3nTextScaledWordEmbedding` scales. The table keeps its stored dtype and
    place (memory-mapped on the host); only looked-up rows are cast and moved.
    """

    def __init__(
        self, table: Tensor, kept: tuple[int, ...], size: int, dtype: torch.dtype, device: str
    ) -> None:
        """`table`: (vocab, parent layers * size)."""
        super().__init__()
        self.table = table  # a plain attribute: `.to()` must not move or copy gigabytes
        self.kept = kept
        self.size = size
        self.dtype = dtype
        self.device = device
        self.scale = torch.tensor(size**0.5, dtype=dtype, device=device)
        every_layer = len(kept) * size == table.shape[1]
        self._index = None if every_layer else torch.tensor(kept)

    def forward(self, input_ids: Tensor) -> Tensor:
        rows = self.look_up(input_ids)
        if self._index is not None:
            rows = rows.index_select(-2, self._index)
        return send(rows.flatten(-2), self.device).to(self.dtype) * self.scale

    def look_up(self, input_ids: Tensor) -> Tensor:
        """(*S, parent layers, size) the rows of all the parent's layers, unscaled.

        They lie where the table does, in its dtype; for an accelerator in pinned memory, which
        PyTorch uses again and again: to get pages anew takes longer than to fill them.
        """
        ids, place = input_ids.to(self.table.device).flatten(), self.table.device
        rows = torch.empty(
            (len(ids), self.table.shape[1]),
            dtype=self.table.dtype,
            device=place,
            pin_memory=place.type == "cpu" and has_own_memory(self.device),
        )
        torch.index_select(self.table, 0, ids, out=rows)
        return rows.view(*input_ids.shape, -1, self.size)


class KeptPerLayerProjection(nn.Linear):
    """`per_layer_model_projection` of a slice that skips layers; its weight is the parent's, whole.

    The kept rows are put together for the time of a call. Kept for good they would cost 31 MB for
    each such slice of E4B, so that memory would grow with the number of slices.
    """

    def __init__(self, weight: Tensor, ranges: tuple[tuple[int, int], ...]) -> None:
        """`weight`: (parent layers * size, hidden_size); `ranges`: (start, stop) of kept rows."""
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self._ranges = ranges

    def forward(self, embeddings: Tensor) -> Tensor:
        kept = torch.cat([self.weight[start:stop] for start, stop in self._ranges])
        return nn.functional.linear(embeddings, kept)


def has_own_memory(device: torch.device | str) -> bool:
    """Whether it is an accelerator whose memory is not the host's, so that tensors travel."""
    return torch.device(device).type not in ("cpu", "mps", "meta")


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on `device`; from the host by pinned memory, not waiting for its work."""
    if has_own_memory(device) and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class ElasticParent:
    """A parent's text weights in memory, and the slices of it as live models.

    `weights`: the parent's text tensors by bare name (`layers.0.mlp.up_proj.weight`); on CPU in the
    stored dtype they are views of the memory-mapped files.
    """

    parent: Parent
    dtype: torch.dtype
    device: str
    weights: Mapping[str, Tensor] = field(repr=False)

    @classmethod
    def load(
        cls,
        parent: Parent,
        *,
        slices: Sequence[Slice] | None = None,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
    ) -> "ElasticParent":
        """Load the text tensors; `dtype` None keeps the stored one. Towers are never read.

        `slices`: no more is loaded than these need, so that a device too small for the parent can
        hold a slice of it; None: everything.
        """
        dtype = dtype or TORCH_DTYPES[parent.dtype]
        needed = _needed(parent, slices)
        weights = {}
        for name, tensor in _open_text_tensors(parent, parent.local):
            if name == EMBED_TOKENS_PER_LAYER:
                weights[name] = tensor
            elif name in needed:
                weights[name] = _moved(_part(tensor, needed[name]), device, dtype)
        return cls(parent, dtype, device, weights)

    def live(self, slice_: Slice) -> "Gemma3nForCausalLM":
        """The slice as a model in eval mode, sharing this parent's memory.

        Raises ValueError for one that needs more than was loaded.
        """
        plan = make_plan(self.parent, slice_, text_only=True)
        model = _empty_model(plan, self.dtype, self.device)
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
        assert not missing, f"parent checks promise every tensor, missing {missing}"
        model.model.load_state_dict(views, strict=False, assign=True)
        model.model.embed_tokens_per_layer = KeptPerLayerEmbedding(
            self.weights[EMBED_TOKENS_PER_LAYER],
            plan.kept,
            plan.text.hidden_size_per_layer_input,
            self.dtype,
            self.device,
        )
        model.tie_weights()
        model.requires_grad_(False)
        model.train(False)
        return model

    def _source(self, tensor: TensorPlan) -> Tensor:
        name = tensor.source.removeprefix(self.parent.prefix)
        if name not in self.weights:
            raise ValueError(f"{name} was not loaded: give load() this slice too")
        return self.weights[name]

    def _view(self, tensor: TensorPlan) -> Tensor:
        view = _part(self._source(tensor), _cut(tensor))
        if view.shape != tensor.shape:
            raise ValueError(
                f"{tensor.source}: {tuple(view.shape)} was loaded, not {tensor.shape}: give load() "
                "this slice too"
            )
        return view


Part = tuple[int, int] | None
"""(axis, how many leading rows or columns) of a tensor; None: all of it."""


def _cut(tensor: TensorPlan) -> Part:
    if tensor.axis is None:
        return None
    ((_, stop),) = tensor.ranges
    return tensor.axis, stop


def _part(tensor: Tensor, part: Part) -> Tensor:
    if part is None:
        return tensor
    axis, count = part
    return tensor[:count] if axis == 0 else tensor[:, :count]


def _moved(tensor: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    """`tensor` on `device` in `dtype`, its rows no less aligned than a whole parent's are.

    Where rows start matters to the last bits of a product: without this, a slice of odd width would
    score a little differently beside a wider one than alone.
    """
    if tensor.is_contiguous() or (tensor.device == torch.device(device) and tensor.dtype == dtype):
        return tensor.to(device=device, dtype=dtype)
    rows, columns = tensor.shape
    wide = torch.empty(
        (rows, math.ceil(columns / ALIGNED_COLUMNS) * ALIGNED_COLUMNS), device=device, dtype=dtype
    )
    return wide[:, :columns].copy_(tensor)


def _needed(parent: Parent, slices: Sequence[Slice] | None) -> dict[str, Part]:
    """By name, what the widest of `slices` has of each of the parent's text tensors."""
    if slices is None:
        return {name.removeprefix(parent.prefix): None for name in parent.tensors}
    needed: dict[str, Part] = {}
    for slice_ in slices:
        for name, tensor in make_plan(parent, slice_, text_only=True).text_tensors().items():
            whole = name in (EMBED_TOKENS_PER_LAYER, PER_LAYER_MODEL_PROJECTION)
            part = None if whole else _cut(tensor)
            source = tensor.source.removeprefix(parent.prefix)
            before = needed.get(source, part)
            needed[source] = None if part is None or before is None else max(part, before)
    return needed


def _open_text_tensors(parent: Parent, folder: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    names = [name for name in parent.tensors if name.startswith(parent.prefix)]
    for file in sorted({parent.tensors[name].file for name in names}):
        with safe_open(folder / file, framework="pt") as opened:
            for name in names:
                if parent.tensors[name].file == file:
                    yield name.removeprefix(parent.prefix), opened.get_tensor(name)


def _empty_model(plan: Plan, dtype: torch.dtype, device: str) -> "Gemma3nForCausalLM":
    """The model on the meta device, its non-persistent buffers filled."""
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig, GenerationConfig

    config = Gemma3nTextConfig.from_dict(dict(text_part(plan.config)))
    config.dtype = dtype
    config._attn_implementation = "sdpa"  # the packed masks mean what they should in this one only
    with _default_dtype(dtype), torch.device("meta"):
        model = Gemma3nForCausalLM(config)
    for module in model.model.modules():
        buffers = list(module.named_buffers(recurse=False))
        for name, buffer in buffers:
            module.register_buffer(name, torch.empty_like(buffer, device=device), persistent=False)
        if buffers:
            # What from_pretrained does for buffers that no checkpoint holds (rotary frequencies,
            # embedding scales); parameters are still on meta and stay untouched.
            model.model._init_weights(module)
    folder = plan.parent.folder
    if folder is not None and (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """from_pretrained builds under the target dtype, so some buffers round to it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

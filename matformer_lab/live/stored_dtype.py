"""Modules that keep their weights in the stored dtype and compute in another.

A CPU without bf16 instructions multiplies float32 ten times as fast as bf16, and a float32 copy of
E4B's text weights takes 18 GB. These modules convert a bounded number of elements at a time into
one buffer that is used again, so that the weights stay the memory-mapped files.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

SMALLEST_KEPT: Final = 1 << 18
"""Elements. Smaller tensors are converted once, when a parent is loaded: 0.2 GB of E4B's."""

CONVERTED_AT_ONCE: Final = 1 << 25
"""Elements of the buffer: 128 MiB in float32, one FFN matrix of E4B."""


def keeps_stored_dtype(tensor: Tensor, device: str, dtype: torch.dtype) -> bool:
    """Whether a tensor of a parent is converted only where it is used: 16 bits on a CPU that
    computes in float32."""
    return (
        device == "cpu"
        and dtype == torch.float32
        and tensor.itemsize < dtype.itemsize
        and tensor.numel() >= SMALLEST_KEPT
    )


class RowBlock(NamedTuple):
    """Rows `first` to `stop` of a matrix, in the compute dtype."""

    first: int
    stop: int
    weight: Tensor
    """[stop - first, columns], overwritten by the next block."""


class ConvertingLinear(nn.Module):
    """`nn.Linear` without bias whose weight is converted a block of rows at a time.

    Attributes:
        weight: [out_features, in_features] in the stored dtype; a buffer, so that the model's dtype
            is the one it computes in.
        dtype: The compute dtype.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.dtype = dtype

    def blocks(self) -> Iterator[RowBlock]:
        """The weight, a block of rows after the other; a block is valid until the next one."""
        rows, columns = self.weight.shape
        step = max(1, CONVERTED_AT_ONCE // columns)
        for first in range(0, rows, step):
            stop = min(first + step, rows)
            yield RowBlock(first, stop, _converted(self.weight[first:stop], self.dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        """[*S, in_features] to [*S, out_features]."""
        rows = len(self.weight)
        output: Tensor | None = None
        for block in self.blocks():
            product = nn.functional.linear(inputs, block.weight)
            if len(block.weight) == rows:
                return product
            if output is None:
                output = product.new_empty(*product.shape[:-1], rows)
            output[..., block.first : block.stop] = product
        assert output is not None, "a matrix without rows"
        return output


class ConvertingEmbedding(nn.Module):
    """transformers' `Gemma3nTextScaledWordEmbedding`, whose rows are converted when looked up.

    Attributes:
        weight: [vocabulary, hidden_size] in the stored dtype; a buffer.
        embed_scale: The factor of the embeddings, a scalar in the compute dtype.
    """

    weight: Tensor
    embed_scale: Tensor

    def __init__(self, weight: Tensor, embed_scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("embed_scale", embed_scale, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[*S] token ids to [*S, hidden_size] in the compute dtype."""
        rows = nn.functional.embedding(input_ids, self.weight)
        return rows.to(self.embed_scale.dtype) * self.embed_scale


def use_stored(model: Gemma3nForCausalLM, stored: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Give `model` its large matrices in the stored dtype.

    Args:
        model: Its matrices of these names are still on the meta device.
        stored: By name within the text model (`layers.0.mlp.up_proj.weight`).
        dtype: The compute dtype.
    """
    text = model.model
    for name, weight in stored.items():
        path = name.removesuffix(".weight")
        old = text.get_submodule(path)
        if isinstance(old, nn.Embedding):
            scale = old.get_buffer("embed_scale").to(dtype)
            text.set_submodule(path, ConvertingEmbedding(weight, scale))
            model.lm_head = ConvertingLinear(weight, dtype)  # tied to it
        else:
            text.set_submodule(path, ConvertingLinear(weight, dtype))


_of_thread = threading.local()


def _converted(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """`matrix` in `dtype`, in this thread's buffer; its rows are contiguous."""
    if matrix.dtype == dtype:
        return matrix
    buffers: dict[torch.dtype, Tensor] = vars(_of_thread).setdefault("buffers", {})
    buffer = buffers.get(dtype)
    if buffer is None or len(buffer) < matrix.numel():
        with torch.inference_mode(False):  # else it could be used in that mode alone
            buffer = buffers[dtype] = torch.empty(matrix.numel(), dtype=dtype)
    return buffer[: matrix.numel()].view(matrix.shape).copy_(matrix)

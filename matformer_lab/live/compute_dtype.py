"""In which dtype to compute: the stored one where the hardware multiplies it, else float32."""

from __future__ import annotations

from typing import Final, NamedTuple

STORED: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""torch's names of the dtypes that safetensors writes."""

_INSTRUCTIONS: Final = {
    "bfloat16": ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"),
    "float16": ("amx_fp16", "avx512_fp16", "fp16"),
}
"""CPU capabilities, as torch names them, with which a product of this dtype is no slower than
float32's."""


class ComputeDtype(NamedTuple):
    """A dtype and why it was chosen."""

    name: str
    """torch's: `float32`, `bfloat16` or `float16`."""
    reason: str


def compute_dtype(asked: str, stored: str, device: str) -> ComputeDtype:
    """The dtype of activations, and of weights where they are used.

    Args:
        asked: A torch dtype's name, or `auto`.
        stored: The parent's dtype, as safetensors names it.
        device: A torch device.
    """
    if asked != "auto":
        return ComputeDtype(asked, "asked for")
    own = STORED[stored]
    if own == "float32" or device != "cpu":
        return ComputeDtype(own, "as stored")
    if multiplies(own):
        return ComputeDtype(own, f"as stored; this CPU multiplies {own}")
    return ComputeDtype("float32", f"this CPU has no instructions for {own}")


def slow_on(dtype: str, device: str) -> str | None:
    """What computing in `dtype` costs on this device, in a line; None where nothing is to be said.

    Measured with an FFN matrix of E4B on a CPU with AVX2 and torch 2.13: 21 GFLOP/s in bfloat16,
    118 in float32.
    """
    if device != "cpu" or dtype == "float32" or multiplies(dtype):
        return None
    return (
        f"`dtype` is {dtype}, for which this CPU has no instructions: products take about five "
        "times as long as with float32 or auto, which need no more memory for the weights"
    )


def multiplies(dtype: str) -> bool:
    """Whether this machine's CPU has instructions for products of a 16-bit dtype."""
    import torch

    there = torch.cpu.get_capabilities()
    return any(there.get(name, False) for name in _INSTRUCTIONS[dtype])

"""Devices that PyTorch computes on: which there are, and how tensors get there."""

from __future__ import annotations

import torch
from torch import Tensor

from matformer_lab.common.errors import InputError


def has_own_memory(device: torch.device | str) -> bool:
    """Whether it is an accelerator whose memory is not the host's, so that tensors travel."""
    return torch.device(device).type not in ("cpu", "mps", "meta")


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on `device`; from the host by pinned memory, not waiting for its work."""
    if has_own_memory(device) and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def resolve_device(device: str) -> str:
    """`auto` as the first GPU, else the CPU. Raises `InputError` for one that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    available = {
        "cpu": 1,
        "meta": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if not (index or "0").isdecimal() or int(index or 0) >= available.get(kind, 0):
        raise InputError(f"`device`: {device} is not available on this machine; use auto or cpu")
    return device


def free_bytes(device: torch.device) -> int:
    """Memory to be had on `device`, what PyTorch keeps there for its next tensors included."""
    if has_own_memory(device):
        backend = torch.get_device_module(device)
        free, _ = backend.mem_get_info(device)
        kept = backend.memory_reserved(device) - backend.memory_allocated(device)
        return int(free + kept)
    import psutil  # type: ignore[import-untyped]

    return int(psutil.virtual_memory().available)

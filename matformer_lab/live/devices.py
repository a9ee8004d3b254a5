"""PyTorch devices: which are available, how much memory is free, and moving tensors to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matformer_lab.common.errors import InputError
from matformer_lab.live.host_memory import available_bytes

if TYPE_CHECKING:  # importing torch takes seconds, and many a mistake is found before it is needed
    import torch
    from torch import Tensor


def has_own_memory(device: torch.device | str) -> bool:
    """Whether the device is an accelerator with its own memory, so that tensors must be copied."""
    import torch

    return torch.device(device).type not in ("cpu", "mps", "meta")


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Move a tensor to a device.

    From the host to an accelerator, the copy goes through pinned memory and is asynchronous.

    Args:
        tensor: A tensor of any shape.
        device: The device.

    Returns:
        The tensor itself if it already is on the device, else a copy.
    """
    if has_own_memory(device) and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def resolve_device(device: str) -> str:
    """The device to use: `auto` becomes the first GPU if there is one, Apple's too, else the CPU.

    Args:
        device: A torch device, or `auto`.

    Raises:
        InputError: When this machine does not have the device.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch failed for lack of memory, on any device."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPU" in str(error)


def idle_gpus(device: str) -> int:
    """How many GPUs a computation on `device` leaves idle; 0 where one was chosen by number."""
    import torch

    return max(0, torch.cuda.device_count() - 1) if device == "cuda" else 0


def free_bytes(device: torch.device) -> int:
    """Bytes that new tensors can use on `device`, including what PyTorch holds in its cache.

    For a device that shares the host's memory these are the bytes available on the host, within the
    limits of the process's cgroups.
    """
    if has_own_memory(device):
        import torch

        backend = torch.get_device_module(device)
        free, _ = backend.mem_get_info(device)
        cached = backend.memory_reserved(device) - backend.memory_allocated(device)
        return int(free + cached)
    return available_bytes()

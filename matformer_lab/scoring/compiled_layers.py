"""Gemma 3n's layers with few kernels: `torch.compile` fuses what lies between their products.

A layer is compiled once for each kind (attention's window, whether it owns, keeps or reuses K/V)
and each of the few token counts that rows have. Its FFN is left out (`piecewise_mlp`), so that
slices that differ in widths alone share the code.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from matformer_lab.common.files.content_digest import cache_folder

if TYPE_CHECKING:
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextDecoderLayer

_CACHE: Final = "TORCHINDUCTOR_CACHE_DIR"
_BACKEND: Final = "inductor"
_MOST_VARIANTS: Final = 512
"""Of one function. A budget has 6 token counts for rows, and at most 9 for scored tokens: 4 kinds
of layers times 6, and 2 that reuse K/V times about 40 pairs, make about 100; longer texts and
smaller budgets add to it. Beyond it compilation is given up, which must not pass unnoticed."""


def compiled_code_folder() -> Path:
    """Where compiled code is kept for other processes: PyTorch's variable, else in our cache."""
    return Path(os.environ.get(_CACHE) or cache_folder() / "compiled")


def why_not_compiled(device: torch.device | str) -> str | None:
    """What is missing to compile for a device; None: nothing."""
    kind = torch.device(device).type
    if kind == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception:  # of a type of its own
            return "no C++ compiler was found"
        return None
    if kind != "cuda":
        return f"{kind} is not compiled for"
    from torch.utils._triton import has_triton

    if not has_triton():
        return "Triton is not installed or does not support this GPU"
    if not (os.environ.get("CC") or any(map(shutil.which, ("gcc", "clang", "cc")))):
        return "no C compiler was found, which Triton needs"
    return None


@contextmanager
def compiling() -> Iterator[None]:
    """Within it, compiled functions are compiled for as many kinds of input as there are."""
    import torch._dynamo.config

    os.environ.setdefault(_CACHE, str(compiled_code_folder()))
    with torch._dynamo.config.patch(
        recompile_limit=_MOST_VARIANTS,
        accumulated_recompile_limit=4 * _MOST_VARIANTS,
        fail_on_recompile_limit_hit=True,
    ):
        yield


def compiled_layer(layer: Gemma3nTextDecoderLayer) -> Callable[..., Any]:
    """A layer's forward, compiled."""
    return partial(compiled(type(layer).forward), layer)


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled for each shape of its arguments that it meets."""
    return torch.compile(function, dynamic=False, **_how())


@cache
def compiled_for_any_size(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled once for arguments of any shape."""
    return torch.compile(function, dynamic=True, **_how())


@cache
def not_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, run as it is where a compiled function calls it."""
    outside: Callable[..., Any] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return outside


def _how() -> dict[str, Any]:
    import torch._inductor.config as inductor

    # Kernels chosen by measuring could round differently in the next process.
    is_asked = _BACKEND == "inductor" and hasattr(inductor, "deterministic")
    return {"backend": _BACKEND, "options": {"deterministic": True} if is_asked else None}

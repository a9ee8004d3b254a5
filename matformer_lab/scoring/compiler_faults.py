"""A compiler that fails, or whose code computes something else, told apart from other faults."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.live.devices import is_out_of_memory

_ROUNDING: Final = {torch.float32: 1e-4, torch.float64: 1e-6}
"""How far a token's log-probability may be off, at the median."""
_ROUNDING_OF_16_BITS: Final = 0.05
"""The same: three times what bf16 did to random parents, and far below what a wrong mask does."""


class NotCompiledError(Exception):
    """Layers cannot be compiled, or what was compiled is wrong; not for lack of memory."""


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Within it, run compiled layers and nothing else: what fails there is the compiler's fault.

    A lack of memory is not, nor is a disk that fails, though a compiler may hide either in an error
    of its own.

    Raises:
        NotCompiledError: For everything else.
    """
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, InputError | MemoryError) or is_out_of_memory(cause):
                raise cause from None
        raise NotCompiledError(f"{type(error).__name__}: {one_line(error)[:300]}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def check_rounding(
    compiled: Sequence[float], usual: Sequence[float], tokens: Sequence[int], dtype: torch.dtype
) -> None:
    """Check that compiled layers answer as the layers do as they are, up to rounding.

    Args:
        compiled: Log-probabilities of some requests.
        usual: The same by the layers as they are.
        tokens: How many targets each has.
        dtype: Of the model.

    Raises:
        NotCompiledError: They differ by more, or are NaN on one side alone.
    """
    found, wanted = np.array(compiled), np.array(usual)
    with np.errstate(invalid="ignore"):
        apart = np.abs(found - wanted) / np.maximum(1, tokens)
    apart[(found == wanted) | (np.isnan(found) & np.isnan(wanted))] = 0.0
    most, median = _ROUNDING.get(dtype, _ROUNDING_OF_16_BITS), float(np.median(apart))
    if not median <= most:  # NaN too
        raise NotCompiledError(
            f"their log-probabilities were off by {median:.2g} a token, and rounding explains "
            f"{most:g}"
        )

"""Finds NaN and infinity in the bytes of weights."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_EXPONENTS: Final[dict[str, Any]] = {
    "BF16": np.uint16(0x7F80),
    "F16": np.uint16(0x7C00),
    "F32": np.uint32(0x7F800000),
    "F64": np.uint64(0x7FF0000000000000),
}
"""By safetensors dtype, the bits of the exponent: NaN and infinity have all of them set."""

ITEM_BYTES: Final[dict[str, int]] = {dtype: bits.itemsize for dtype, bits in _EXPONENTS.items()}
"""Bytes an element, by the safetensors dtypes that are searched."""

_AT_ONCE: Final = 1 << 19
"""Bytes searched at a time: they stay in the CPU's cache between two passes."""


def holds_not_finite(data: memoryview, dtype: str) -> bool:
    """Whether there is a NaN or an infinity among the elements of `data`.

    Args:
        data: Whole elements; need not be aligned.
        dtype: A safetensors dtype; of those that are not in `ITEM_BYTES` nothing is said.
    """
    exponent = _EXPONENTS.get(dtype)
    if exponent is None:
        return False
    values: npt.NDArray[Any] = np.frombuffer(data, dtype=exponent.dtype)
    step = _AT_ONCE // exponent.itemsize
    masked: npt.NDArray[Any] = np.empty(min(step, len(values)), dtype=exponent.dtype)
    for first in range(0, len(values), step):
        piece = values[first : first + step]
        if np.bitwise_and(piece, exponent, out=masked[: len(piece)]).max() == exponent:
            return True
    return False

"""Our reading of safetensors headers against the installed library's."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors

from matformer_lab.common.errors import InputError
from matformer_lab.parent.weights.headers import ITEM_BITS, ITEM_SIZE, encode_header, read_header


def one_tensor(dtype: str, elements: int, nbytes: int) -> bytes:
    """A file with `elements` of `dtype` in `nbytes` bytes of data."""
    entry = {"dtype": dtype, "shape": [elements], "data_offsets": [0, nbytes]}
    header = json.dumps({"x": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(nbytes)


DESERIALIZE: Any = safetensors.deserialize  # the library has no types


def library_dtypes() -> set[str]:
    """Every dtype of the installed library, which lists them when it meets one that is not."""
    with pytest.raises(safetensors.SafetensorError, match="unknown variant") as refusal:
        DESERIALIZE(one_tensor("F12", 8, 12))
    _, known = str(refusal.value).split("expected one of")
    return set(re.findall(r"`(\w+)`", known))


def library_accepts(content: bytes) -> bool:
    try:
        DESERIALIZE(content)
    except safetensors.SafetensorError:
        return False
    return True


def we_accept(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        read_header(path)
    except InputError:
        return False
    return True


def test_the_dtypes_are_the_librarys() -> None:
    assert ITEM_BITS.keys() == ITEM_SIZE.keys() == library_dtypes()


@pytest.mark.parametrize("dtype", sorted(ITEM_BITS))
@pytest.mark.parametrize("elements", [0, 1, 2, 3, 4, 8])
def test_the_size_of_each_dtype_is_the_librarys(dtype: str, elements: int, tmp_path: Path) -> None:
    """For every size up to 8 bytes an element, both accept it or neither does."""
    theirs, ours = [], []
    for nbytes in range(8 * elements + 2):
        content = one_tensor(dtype, elements, nbytes)
        theirs += [nbytes] * library_accepts(content)
        ours += [nbytes] * we_accept(tmp_path / "x.safetensors", content)
    assert ours == theirs
    # None: elements of less than a byte that do not fill whole bytes.
    assert len(ours) == (elements * ITEM_BITS[dtype] % 8 == 0)


@pytest.mark.parametrize("dtype", sorted(ITEM_BITS))
def test_the_library_reads_our_header_of_each_dtype(dtype: str) -> None:
    shape = (2, 4)
    header = encode_header([("x", dtype, shape)])
    ((name, tensor),) = DESERIALIZE(header + bytes(ITEM_BITS[dtype]))
    assert (name, tensor["dtype"], tuple(tensor["shape"])) == ("x", dtype, shape)


def test_elements_that_do_not_fill_whole_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(one_tensor("F4", 3, 2))
    with pytest.raises(InputError, match=r"F4 of shape \[3\] does not fill whole bytes"):
        read_header(path)


def test_two_tensors_of_one_name_pass_the_library_but_not_us(tmp_path: Path) -> None:
    """Why headers.py checks more: its docstring says so."""
    entry = '{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
    header = f'{{"x":{entry},"x":{entry}}}'.encode()
    content = struct.pack("<Q", len(header)) + header + bytes(4)
    assert library_accepts(content)
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="'x' appears twice"):
        read_header(path)

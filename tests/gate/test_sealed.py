"""Seals: what they fit, and what they do not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.common.errors import InputError
from matformer_lab.gate.sealed import is_sealed, seal, write_sealed


@given(st.binary(), st.sampled_from(["gate JUnit file", "gate summary"]), st.data())
def test_a_seal_fits_what_was_sealed_and_nothing_else(
    data: bytes, kind: str, draw: st.DataObject
) -> None:
    sealed = seal(data, kind)
    assert is_sealed(sealed, kind)
    assert not is_sealed(sealed, "another kind")
    assert not is_sealed(data, kind)
    at = draw.draw(st.integers(0, len(sealed) - 1))
    assert not is_sealed(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], kind)
    assert not is_sealed(sealed + b"\n", kind)
    assert not is_sealed(sealed[:-1], kind)


def test_own_files_are_replaced_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    write_sealed(path, b"one", "gate summary")
    write_sealed(path, b"two", "gate summary")
    assert path.read_bytes() == seal(b"two", "gate summary")
    path.write_text("mine")
    with pytest.raises(InputError, match="is not a gate summary that this tool made"):
        write_sealed(path, b"three", "gate summary")
    assert path.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1

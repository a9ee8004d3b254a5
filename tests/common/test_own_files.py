"""Seals: what they fit, and what they do not."""

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.common.errors import InputError
from matformer_lab.common.own_files import is_sealed, seal, write_own

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


@given(st.binary(), st.sampled_from(["report", "gate summary"]), st.data())
def test_a_seal_fits_what_was_sealed_and_nothing_else(
    data: bytes, kind: str, draw: st.DataObject
) -> None:
    for content in (data, PIXEL):
        sealed = seal(content, kind)
        assert is_sealed(sealed, kind)
        assert not is_sealed(sealed, "another kind")
        assert not is_sealed(content, kind)
        at = draw.draw(st.integers(0, len(sealed) - 1))
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        assert not is_sealed(changed, kind)
        assert not is_sealed(sealed + b"\n", kind)
        assert not is_sealed(sealed[:-1], kind)


def test_a_sealed_picture_is_a_picture() -> None:
    sealed = seal(PIXEL, "report")
    at, chunks = 8, []
    while at < len(sealed):
        size = int.from_bytes(sealed[at : at + 4], "big")
        body = sealed[at + 4 : at + 8 + size]
        assert zlib.crc32(body) == int.from_bytes(sealed[at + 8 + size : at + 12 + size], "big")
        chunks.append(body[:4])
        at += 12 + size
    assert chunks == [b"IHDR", b"IDAT", b"tEXt", b"IEND"]


def test_own_files_are_replaced_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_own(path, b"one", "report")
    write_own(path, b"two", "report")
    assert path.read_bytes() == seal(b"two", "report")
    path.write_text("mine")
    with pytest.raises(InputError, match="is no report of this tool"):
        write_own(path, b"three", "report")
    assert path.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1

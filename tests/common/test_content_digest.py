"""Digests of whole files: every byte counts, and an unchanged file is not read again."""

import os
import time
from pathlib import Path

import pytest
from blake3 import blake3

from matformer_lab.common.errors import InputError
from matformer_lab.common.files import content_digest as module
from matformer_lab.common.files.content_digest import content_digest, known_digest


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATFORMER_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "RACY_NS", -(10**12))  # every file is old enough
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(100_000))
    return path


def test_it_is_blake3_of_every_byte(file: Path) -> None:
    told: list[int] = []
    assert content_digest(file, told.append) == blake3(file.read_bytes()).hexdigest()
    assert sum(told) == 100_000


def test_an_unchanged_file_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = content_digest(file)

    def no_reading(path: Path) -> None:
        raise AssertionError(f"{path} is read")

    monkeypatch.setattr(module, "open_regular", no_reading)
    told: list[int] = []
    assert content_digest(file, told.append) == digest == known_digest(file)
    assert sum(told) == 100_000


@pytest.mark.parametrize("place", [0, 1, 4096, 50_000, 99_999])
def test_one_byte_under_the_old_size_and_time_counts(file: Path, place: int) -> None:
    digest, stat = content_digest(file), file.stat()
    with file.open("r+b") as opened:
        opened.seek(place)
        (byte,) = opened.read(1)
        opened.seek(place)
        opened.write(bytes([byte ^ 1]))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert known_digest(file) is None
    assert content_digest(file) != digest


def test_a_copy_in_its_place_counts(file: Path) -> None:
    digest, stat = content_digest(file), file.stat()
    other = file.with_name("other")
    other.write_bytes(bytes(100_000))
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(file)
    assert content_digest(file) != digest


def test_a_file_that_has_just_changed_is_not_trusted(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RACY_NS", 10**12)
    content_digest(file)
    assert known_digest(file) is None


def test_a_damaged_or_unwritable_cache_does_no_harm(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digest = content_digest(file)
    (note,) = (tmp_path / "cache" / "digests").iterdir()
    for broken in (b"", b"[]", b'{"state": 1}', b"\xff", b'{"digest": 3}'):
        note.write_bytes(broken)
        assert content_digest(file) == digest
    (tmp_path / "plain").write_text("a file")
    monkeypatch.setenv("MATFORMER_LAB_CACHE", str(tmp_path / "plain" / "below"))
    assert content_digest(file) == digest


def test_a_file_that_changes_while_it_is_read(file: Path) -> None:
    def change(_: int) -> None:
        time.sleep(0.02)
        file.write_bytes(b"other")

    with pytest.raises(InputError, match="changed while it was read"):
        content_digest(file, change)


def test_a_pipe_is_refused(file: Path) -> None:
    pipe = file.with_name("pipe")
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="not a regular file"):
        content_digest(pipe)

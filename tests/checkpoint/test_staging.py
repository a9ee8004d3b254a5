"""`slice` and other people's files: of a staging folder, only what runs wrote is removed."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from matformer_lab.checkpoint.disk import shard_writer, tensor_bytes
from matformer_lab.checkpoint.family import add_to_family, write_family
from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import Plan, make_plan
from tests.support.kill_loop import contents


def plans(parent: Path, *slices: object) -> list[Plan]:
    opened = open_parent(parent)
    return [make_plan(opened, slice_) for slice_ in resolve_slices(slices, opened)]


def one(parent: Path, out: Path) -> Path:
    return write_checkpoint(plans(parent, "1/2")[0], out, max_shard_size=40_000, threads=1)


def several(parent: Path, out: Path) -> Path:
    return write_family(plans(parent, "1/2", "1/4"), out, threads=1)


def one_more(parent: Path, out: Path) -> Path:
    """Adds to the family that `out` lies in."""
    if not (out.parent / "uniform-1-4").exists():
        write_checkpoint(plans(parent, "1/4")[0], out.parent / "uniform-1-4")
    (name,) = add_to_family(plans(parent, "1/2"), out.parent, threads=1)
    return out.parent / name


WRITERS = {"child": one, "family": several, "uniform-1-2": one_more}


@pytest.fixture(params=WRITERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def broken_off(after: int) -> Iterator[None]:
    """The parent cannot be read any more after so many tensors."""
    left = after

    def failing(source: Path, tensor: Any, scratch: Any) -> Iterator[memoryview]:
        nonlocal left
        left -= 1
        if left < 0:
            raise InputError("broken off")
        return tensor_bytes.child_bytes(source, tensor, scratch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "child_bytes", failing)
        yield


def unfinished(name: str, pico: Path, folder: Path) -> tuple[Path, Path]:
    """The output and the staging folder of a run that was broken off."""
    folder.mkdir()
    out, after = folder / name, 70
    if name == "uniform-1-2":
        write_checkpoint(plans(pico, "1/4")[0], folder / "uniform-1-4")
        after = 20
    with broken_off(after), pytest.raises(InputError, match="broken off"):
        WRITERS[name](pico, out)
    return out, folder / f".{name}.partial"


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "place",
    ["thesis.txt", ".mine.tmp", "deep/thesis.txt", "files/thesis.txt", "work/a.growing", "pool/a",
     "work/.x.abcdefgh.matformer_lab.tmp", "files/empty"],
)  # fmt: skip
def test_a_strangers_file_in_a_place_of_work_is_named_and_stays(
    place: str, name: str, pico: Path, tmp_path: Path
) -> None:
    out, staging = unfinished(name, pico, tmp_path / "here")
    made = not (staging / place).parent.exists()
    (staging / place).parent.mkdir(exist_ok=True)
    if place == "files/empty":
        (staging / place).mkdir()
    else:
        (staging / place).write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(InputError, match="not put there by this tool") as caught:
        WRITERS[name](pico, out)
    assert str(caught.value).startswith(f"{staging}/")
    assert everything(tmp_path) == before and not out.exists()
    shutil.rmtree(staging / place) if (staging / place).is_dir() else (staging / place).unlink()
    if made:
        (staging / place).parent.rmdir()
    WRITERS[name](pico, out)
    assert verify_checkpoint(out, pico).ok and not staging.exists()


@pytest.mark.parametrize("put", [lambda p: p.symlink_to(p.parent.parent), os.mkfifo])
def test_links_and_pipes_are_nobodys_work(
    put: Callable[[Path], None], pico: Path, tmp_path: Path
) -> None:
    out, staging = unfinished("child", pico, tmp_path / "here")
    victim = next(path for path in (staging / "files").iterdir())
    victim.unlink()
    put(victim)
    with pytest.raises(InputError, match="not put there"):
        one(pico, out)
    assert os.path.lexists(victim)


FOREIGN: dict[str, dict[str, str]] = {
    "an order of something else": {"order.json": '{"pizza": 2}', "thesis.txt": "mine"},
    "an order that is no JSON": {"order.json": "pizza", "files/thesis.txt": "mine"},
    "a list": {"order.json": "[]"},
    "an order alone": {"order.json": "{}"},
    "an order without what it writes": {"order.json": '{"made_by": "matformer_lab"}'},
    "a lock with something in it": {".lock": "mine"},
    "a file like an order": {".order.json.mine": "x"},
    "files": {"files/thesis.txt": "mine"},
    "an empty folder": {"files/": ""},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_strangers_folder_under_the_name_of_a_place_of_work(
    kind: str, name: str, pico: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    staging = here / f".{name}.partial"
    staging.mkdir(parents=True)
    if name == "uniform-1-2":
        write_checkpoint(plans(pico, "1/4")[0], here / "uniform-1-4")
    for place, text in FOREIGN[kind].items():
        path = staging / place
        if place.endswith("/"):
            path.mkdir()
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    before, names = contents(tmp_path), everything(tmp_path)
    with pytest.raises(InputError, match="in the way"):
        WRITERS[name](pico, here / name)
    assert (contents(tmp_path), everything(tmp_path)) == (before, names)


def test_files_beside_the_output_stay(name: str, pico: Path, tmp_path: Path) -> None:
    """Beside a family no other files may be: then it is none (`can_be_added_to`)."""
    here = tmp_path / "here"
    here.mkdir()
    beside = ("notes.txt", f".{name}.partial.bak", f".{name}.partia", f"{name}.partial", ".lock",
              "files", "order.json", f".{name}.tmp")  # fmt: skip
    for other in beside:
        (here / other).write_text("mine")
    if name == "uniform-1-2":
        (out,) = [write_checkpoint(plans(pico, "1/2")[0], here / name)]
    else:
        out = WRITERS[name](pico, here / name)
    assert verify_checkpoint(out, pico).ok
    assert sorted(path.name for path in here.iterdir()) == sorted((*beside, name))
    assert all((here / other).read_text() == "mine" for other in beside)


@pytest.mark.parametrize("under", ["notes.txt", ".hidden", "folder/", "model.safetensors"])
def test_files_under_the_output_stay(under: str, name: str, pico: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    out = here / name
    out.mkdir(parents=True)
    (out / under).mkdir() if under.endswith("/") else (out / under).write_text("mine")
    if name == "uniform-1-2":
        write_checkpoint(plans(pico, "1/4")[0], here / "uniform-1-4")
    before = everything(tmp_path)
    with pytest.raises(InputError):
        WRITERS[name](pico, out)
    assert everything(tmp_path) == before


def test_another_order_takes_the_place_over(pico: Path, pico_full: Path, tmp_path: Path) -> None:
    """What the runs of one order wrote, the next one removes, to the last file."""
    out, staging = unfinished("child", pico, tmp_path / "here")
    assert any((staging / "files").iterdir())
    order = json.loads((staging / "order.json").read_text())
    for place in order["writes"]:  # as if it had been killed at its very end
        (staging / place).write_text("left")
    (staging / "files" / ".config.json.abcdefgh.matformer_lab.tmp").write_text("left")
    write_family(plans(pico_full, "1/2", "1/4"), out)
    assert verify_checkpoint(out, pico_full).ok
    assert [path.name for path in out.parent.iterdir()] == ["child"]


def test_a_strangers_file_that_comes_at_the_last_moment(pico: Path, tmp_path: Path) -> None:
    """It does not become a part of the checkpoint, and it is not removed."""
    staging = tmp_path / ".child.partial"
    place = staging / "files" / "modeling.py"

    def put(_: int) -> None:
        place.write_text("mine")

    with pytest.raises(InputError, match="not put there"):
        write_checkpoint(plans(pico, "1/2")[0], tmp_path / "child", progress=put)
    assert place.read_text() == "mine" and not (tmp_path / "child").exists()
    place.rename(staging / "work" / "mine.py")
    with pytest.raises(InputError, match="not put there"):
        write_checkpoint(plans(pico, "1/2")[0], tmp_path / "child")


@pytest.mark.parametrize("size_and_time", ["kept", "changed"])
def test_a_finished_piece_is_compared_with_the_parent(
    size_and_time: str, name: str, pico: Path, tmp_path: Path
) -> None:
    """Zeroed bytes under the old size and time, in every finished file: all are written anew."""
    out, staging = unfinished(name, pico, tmp_path / "here")
    finished = list(staging.glob("*/*.safetensors"))
    assert finished
    for path in finished:
        stat = path.stat()
        with path.open("r+b") as file:
            file.seek(stat.st_size // 2)
            file.write(bytes(stat.st_size // 4))
        if size_and_time == "kept":
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    WRITERS[name](pico, out)
    assert verify_checkpoint(out, pico).ok
    alone = tmp_path / "alone"
    alone.mkdir()
    assert contents(WRITERS[name](pico, alone / name)) == contents(out)


def test_a_forged_manifest_does_not_get_a_piece_linked(pico: Path, tmp_path: Path) -> None:
    """A member whose bytes were changed and whose manifest was made to fit: nothing is linked."""
    from matformer_lab.checkpoint.manifest import MANIFEST_FILE, Manifest, tensor_digest
    from matformer_lab.parent.folder import read_layout

    family = write_family(plans(pico, "1/4", "3/4"), tmp_path / "family")
    for member in sorted(family.iterdir()):
        digests = {}
        for path in member.glob("*.safetensors"):
            copy = path.read_bytes()
            path.unlink()
            path.write_bytes(copy[:-2] + b"\x5a\x5a")
        for tensor, info in read_layout(member).items():
            data = (member / info.file).read_bytes()[info.offset : info.offset + info.nbytes]
            digest = tensor_digest(info.dtype, info.shape)
            digest.update(data)
            digests[tensor] = digest.hexdigest()
        manifest = Manifest.model_validate_json((member / MANIFEST_FILE).read_text())
        forged = manifest.model_copy(update={"tensors": digests}).sealed()
        (member / MANIFEST_FILE).write_text(forged.model_dump_json())
        assert verify_checkpoint(member).ok
    (added,) = add_to_family(plans(pico, "1/2"), family)
    assert verify_checkpoint(family / added, pico).ok

"""A sweep and other people's files: nothing that it did not write is removed or replaced."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matformer_lab.common.errors import InputError
from matformer_lab.report.write import write_report
from matformer_lab.results.files import MARKER
from matformer_lab.sweep.recipe import parse_recipe
from matformer_lab.sweep.run import dry_run, run_sweep
from tests.support.kill_loop import contents

TABLES = ("results.csv", "results.parquet", "recipe.yaml", "slices.json")
REPORT = ("report.html", "frontier.png", "frontier.svg")


def run(out: Path, parent: Path, **changes: Any) -> Path:
    recipe = {
        "parent": str(parent),
        "slices": ["1/2"],
        "tasks": ["tiny_boolq"],
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 4,
        "limit": 2,
        **changes,
    }
    return run_sweep(parse_recipe(recipe), out)


@pytest.fixture(scope="module")
def made(scorable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("sweep") / "out", scorable)


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A finished sweep, a copy for each test."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def mine(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"slice": ["mine"], "value": [1.0]}), path)
    else:
        path.write_text("mine\n")


STRANGERS: dict[str, tuple[str, ...]] = {
    "a store": ("store/notes.txt",),
    "stored tables": ("store/tiny_boolq/0123456789abcdef-0123456789abcdef01234567.parquet",),
    "a lock": (".lock",),
    "results": ("results.parquet",),
    "all of our names": (".lock", "store/a.parquet", "samples/a/b.parquet", *TABLES, *REPORT),
    "temporary files": (".lock", ".editor.tmp", "store/x/.a.tmp"),
    "a marker": (MARKER,),
}


@pytest.mark.parametrize("files", STRANGERS.values(), ids=STRANGERS)
def test_a_strangers_folder_is_refused_and_left_as_it_was(
    files: tuple[str, ...], scorable: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    for name in files:
        mine(project / name)
    before = contents(project)
    for attempt in (run, lambda out, parent: dry_run(parse_recipe({"parent": str(parent)}), out)):
        with pytest.raises(InputError) as caught:
            attempt(project, scorable)
        assert str(project) in str(caught.value)
    assert contents(project) == before


BESIDE = (
    *("notes.txt", ".results.csv.original.tmp", ".results.csv.abcdefgh.tmp", ".mine.tmp"),
    *("samples/mine.parquet", "samples/uniform-1-2/mine.parquet", "samples/mine/mine.parquet"),
    *("samples/uniform-1-2/.mine.tmp", "samples/uniform-1-2/tiny_boolq.parquet.bak"),
    *("store/mine.parquet", "store/tiny_boolq/mine.parquet", "store/mine/.mine.tmp"),
    *("deep/down/.mine.tmp", "frontier.pdf", "report/index.html"),
)


@pytest.mark.parametrize("marked", [True, False])
def test_files_beside_and_under_a_sweeps_stay(out: Path, scorable: Path, marked: bool) -> None:
    for name in BESIDE:
        mine(out / name)
    if not marked:
        (out / MARKER).unlink()
    before = {name: digest for name, digest in contents(out).items() if name in BESIDE}
    assert len(before) == len(BESIDE)
    run(out, scorable)
    run(out, scorable, slices=["1/4"], limit=1)  # other samples, and the old ones go
    assert before.items() <= contents(out).items()
    assert not (out / "samples/uniform-1-2/tiny_boolq.parquet").exists()
    assert (out / "samples/uniform-1-4/tiny_boolq.parquet").exists()


OURS = (*TABLES, *REPORT, "samples/uniform-1-2/tiny_boolq.parquet")


@pytest.mark.parametrize("name", OURS)
def test_a_file_of_ours_that_was_edited_is_named_and_stays(
    name: str, out: Path, scorable: Path
) -> None:
    with (out / name).open("ab") as file:
        file.write(b"\n")
    before = contents(out)
    for changes in ({}, {"limit": 1}, {"slices": ["1/4"]}):
        with pytest.raises(InputError, match="was changed after the sweep wrote it") as caught:
            run(out, scorable, **changes)
        assert str(out / name) in str(caught.value)
    if name in REPORT:
        with pytest.raises(InputError, match="was changed"):
            write_report(out)
    assert contents(out) == before
    (out / name).rename(out / "kept")
    run(out, scorable)
    assert (out / name).exists() and (out / "kept").exists()


def folder_in_the_way(path: Path) -> None:
    mine(path / "thesis.txt")


def link_in_the_way(path: Path) -> None:
    mine(path.parent.parent / "elsewhere.txt")
    path.symlink_to(path.parent.parent / "elsewhere.txt")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("put", [mine, folder_in_the_way, link_in_the_way, dangling, pipe])
@pytest.mark.parametrize("name", ["results.csv", "report.html", "samples", "store"])
def test_something_else_under_a_name_of_ours(
    put: Callable[[Path], None], name: str, scorable: Path, made: Path, tmp_path: Path
) -> None:
    if put is folder_in_the_way and name in ("samples", "store"):
        pytest.skip("a folder is what belongs there")
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(made / MARKER, out / MARKER)
    put(out / name)
    before = (out / name).lstat()
    with pytest.raises(InputError) as caught:
        run(out, scorable)
    assert str(out / name) in str(caught.value)
    assert (out / name).lstat() == before
    assert {path.name for path in out.iterdir()} == {MARKER, name}


def test_a_strangers_samples_where_new_ones_would_be(out: Path, scorable: Path) -> None:
    theirs = out / "samples/uniform-1-4/tiny_boolq.parquet"
    mine(theirs)
    before = contents(out)
    with pytest.raises(InputError, match="is not the sweep's") as caught:
        run(out, scorable, slices=["1/2", "1/4"])
    assert str(theirs) in str(caught.value)
    assert contents(out) == before  # refused before anything was scored


@pytest.mark.parametrize(
    "files",
    [
        {"../outside.txt": ["00"]},
        {"samples/../../outside.txt": ["00"]},
        {"samples/a/../../../outside.parquet": ["00"]},
        {"/etc/passwd": ["00"]},
        {"notes.txt": ["00"]},
        {"store/a/b.parquet": ["00"]},
    ],
)
def test_a_marker_speaks_only_of_places_where_a_sweep_writes(
    files: dict[str, list[str]], scorable: Path, tmp_path: Path
) -> None:
    (tmp_path / MARKER).write_text(
        json.dumps({"made_by": "matformer_lab", "kind": "sweep", "format": 1, "files": files})
    )
    with pytest.raises(InputError, match="where no sweep writes"):
        run(tmp_path, scorable)
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


# --- folders of 0.1.0, which had no marker ------------------------------------------------------


def test_an_unmarked_folder_of_an_earlier_version_goes_on(out: Path, scorable: Path) -> None:
    (out / MARKER).unlink()
    stored = {path: path.stat().st_mtime_ns for path in out.glob("store/*/*.parquet")}
    run(out, scorable, slices=["1/2", "1/4"])
    assert (
        stored.items() <= {p: p.stat().st_mtime_ns for p in out.glob("store/*/*.parquet")}.items()
    )
    run(out, scorable)


@pytest.mark.parametrize("left", [("store",), ("store", "samples"), ("store", ".lock"), (".lock",)])
def test_an_unmarked_folder_of_a_killed_sweep_goes_on(
    left: tuple[str, ...], out: Path, scorable: Path
) -> None:
    for path in out.iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    run(out, scorable)
    assert (out / "results.parquet").exists()


@pytest.mark.parametrize("name", OURS)
def test_a_strangers_file_in_an_unmarked_folder_stays(name: str, out: Path, scorable: Path) -> None:
    (out / MARKER).unlink()
    mine(out / name)
    before = contents(out)
    with pytest.raises(InputError, match=r"is not the sweep's|holds no sweep"):
        run(out, scorable)
    assert contents(out) == before

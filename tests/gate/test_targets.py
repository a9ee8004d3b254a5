"""The gate and the report replace their own files only."""

import hashlib
import os
from pathlib import Path

import pytest

from matformer_lab.common.errors import InputError
from matformer_lab.gate.run import run_gate
from tests.support.command import run_here
from tests.support.synthetic import SLICES, write_sweep

STRANGERS = {
    "notes.md": b"# My notes\n\nthree years of them\n",
    "config.yaml": b"parent: mine\ntasks: [a]\n",
    "results.xml": b"<testsuites><testsuite name='unit'/></testsuites>\n",
    "empty.yaml.bak": b"x",
    "binary": bytes(range(256)),
}


def state(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep, its baseline, and a stranger's files beside and under it."""
    monkeypatch.chdir(tmp_path)
    folder = write_sweep(tmp_path / "sweep", slices=SLICES[:2], scale=0.01)
    for where in (tmp_path, folder, folder / "samples", folder / "samples" / "mine"):
        where.mkdir(exist_ok=True)
        for name, content in STRANGERS.items():
            (where / name).write_bytes(content)
    run_gate(folder, tmp_path / "baseline.yaml", update=True)
    return folder


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--baseline", "config.yaml", "--update"], "is not a baseline"),
        (["--baseline", "notes.md", "--update"], "is not a baseline"),
        (["--baseline", "binary", "--update"], "is not a baseline"),
        (["--baseline", "sweep/recipe.yaml", "--update"], "a name of the sweep's own files"),
        (["--baseline", "baseline.yaml", "--markdown", "notes.md"], "is not a gate summary"),
        (["--baseline", "baseline.yaml", "--markdown", "sweep/notes.md"], "is not a gate summary"),
        (["--baseline", "baseline.yaml", "--junit", "results.xml"], "is not a gate JUnit file"),
        (["--baseline", "baseline.yaml", "--junit", "sweep/results.parquet"], "the sweep's own"),
        (["--baseline", "baseline.yaml", "--junit", "sweep/report.html"], "the sweep's own"),
        (["--baseline", "baseline.yaml", "--junit", "sweep/samples/x.xml"], "the sweep's own"),
        (["--baseline", "baseline.yaml", "--junit", "link.xml"], "the sweep's own"),
        (["--baseline", "baseline.yaml", "--junit", "loop.xml"], "cannot be written"),
        (["--baseline", "baseline.yaml", "--junit", "/dev/full"], "cannot be written"),
        (["--baseline", "baseline.yaml", "--junit", "pipe"], "cannot be written"),
        (["--baseline", "baseline.yaml", "--junit", "x" * 300], "cannot be written"),
        (["--baseline", "same.yaml", "--update", "--markdown", "same.yaml"], "give two files"),
        (["--baseline", "same.yaml", "--update", "--junit", "./SAME.yaml"], "give two files"),
        (["--baseline", "baseline.yaml", "--markdown", "s", "--junit", "sweep/../s"], "give two"),
        (["--baseline", "baseline.yaml", "--markdown", "baseline.yaml"], "give two files"),
        (["--baseline", "baseline.yaml", "--max-drop", "inf"], "--max-drop is inf"),
    ],
)
def test_a_file_that_is_not_the_gates_is_left_alone(
    sweep: Path,
    tmp_path: Path,
    arguments: list[str],
    wanted: str,
) -> None:
    (tmp_path / "link.xml").symlink_to(sweep / "results.csv")
    (tmp_path / "loop.xml").symlink_to("loop.xml")
    os.mkfifo(tmp_path / "pipe")
    before = state(tmp_path)
    done = run_here("gate", sweep, *arguments)
    assert done.code == 2 and not done.out, done
    assert wanted in done.err and len(done.err.splitlines()) == 1, done.err
    assert state(tmp_path) == before


@pytest.mark.parametrize("name", ["baseline", "markdown", "junit"])
def test_a_name_that_no_file_can_have_is_refused(sweep: Path, tmp_path: Path, name: str) -> None:
    """Only Python can pass it on."""
    before = state(tmp_path)
    with pytest.raises(InputError, match="NUL"):
        targets = {"baseline": tmp_path / "baseline.yaml", name: tmp_path / "a\0b"}
        run_gate(
            sweep,
            targets["baseline"],
            markdown=targets.get("markdown"),
            junit=targets.get("junit"),
        )
    assert state(tmp_path) == before


def test_the_gates_own_files_are_replaced_until_somebody_changes_them(
    sweep: Path, tmp_path: Path
) -> None:
    (tmp_path / "summary.md").touch()  # as GitHub hands out $GITHUB_STEP_SUMMARY
    files = ("--markdown", "summary.md", "--junit", "sweep/gate.xml")
    for _ in range(2):
        done = run_here("gate", sweep, "--baseline", "baseline.yaml", *files)
        assert done.code == 0, done
    assert run_here("gate", sweep, "--baseline", "baseline.yaml", "--update").code == 0
    swapped = ("--markdown", "sweep/gate.xml")
    assert run_here("gate", sweep, "--baseline", "baseline.yaml", *swapped).code == 2
    with (tmp_path / "summary.md").open("a") as file:
        file.write("My own conclusion.\n")
    before = state(tmp_path)
    done = run_here("gate", sweep, "--baseline", "baseline.yaml", *files)
    assert done.code == 2 and "was changed since it was written" in done.err, done
    assert state(tmp_path) == before


def test_an_update_goes_through_a_link_and_replaces_a_baseline_with_a_mistake(
    sweep: Path, tmp_path: Path
) -> None:
    (tmp_path / "link.yaml").symlink_to("baseline.yaml")
    text = (tmp_path / "baseline.yaml").read_text()
    (tmp_path / "baseline.yaml").write_text(text.replace("seed: 1234", "seed: 1"))
    run_gate(sweep, tmp_path / "link.yaml", update=True)
    assert (tmp_path / "link.yaml").is_symlink()
    assert (tmp_path / "baseline.yaml").read_text() == text


@pytest.mark.parametrize("name", ["report.html", "frontier.png", "frontier.svg"])
def test_a_report_leaves_a_strangers_page_and_pictures_alone(
    sweep: Path, tmp_path: Path, name: str
) -> None:
    (sweep / name).write_bytes(b"\x89PNG\r\n\x1a\nmine" if name.endswith("png") else b"mine")
    before = state(tmp_path)
    done = run_here("report", sweep)
    assert done.code == 2 and f"{name}: is not the sweep's" in done.err, done
    assert state(tmp_path) == before
    (sweep / name).unlink()
    assert run_here("report", sweep).code == 0
    assert run_here("report", sweep).code == 0  # its own are replaced
    data = (sweep / name).read_bytes()
    (sweep / name).write_bytes(data[: len(data) // 2] + b"!" + data[len(data) // 2 + 1 :])
    assert run_here("report", sweep).code == 2
    after, own = state(tmp_path), f"sweep/{name}"
    assert {path: after[path] for path in before if path != own} == {
        path: digest for path, digest in before.items() if path != own
    }

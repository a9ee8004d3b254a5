"""The gate does not pass where nothing was checked: every example is a real file and a process."""

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from matformer_lab.gate.baseline import load_baseline
from matformer_lab.gate.run import run_gate
from tests.support.command import run_here
from tests.support.synthetic import SLICES, write_sweep

ROOT = Path(__file__).resolve().parents[2]
SOME = tuple(made for made in SLICES if made.name in ("e4b", "e2b"))
OTHER = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweeps") / "good", slices=SOME, scale=0.02)


@pytest.fixture(scope="module")
def document(good: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("baseline") / "baseline.yaml"
    run_gate(good, path, update=True)
    written: dict[str, Any] = yaml.safe_load(path.read_text())
    return written


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def set_at(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = to

    return edit


def drop_at(*keys: str) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return edit


def all_of(*edits: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        for one in edits:
            one(document)

    return edit


def surplus(document: dict[str, Any]) -> None:
    document["outcomes"]["e2b"]["boolq"].append("ff")


def padding(document: dict[str, Any]) -> None:
    """A one in the last byte, past the last item."""
    lines = document["outcomes"]["e2b"]["boolq"]
    lines[-1] = lines[-1][:-1] + format(int(lines[-1][-1], 16) | 1, "x")


EMPTY = [set_at(part, to={}) for part in ("slices", "scores", "outcomes")]
PARTS_DISAGREE = {
    "no slices": (EMPTY[0], "is empty"),
    "no scores": (EMPTY[1], "is empty"),
    "no outcomes": (EMPTY[2], "is empty"),
    "nothing at all": (all_of(*EMPTY, set_at("tasks", to={})), "is empty"),
    "no tasks": (set_at("tasks", to={}), "is empty"),
    "a slice without digest": (drop_at("slices", "e2b"), "e2b is in 'scores' and not in 'slices'"),
    "a slice without scores": (drop_at("scores", "e2b"), "e2b is in 'slices' and not in 'scores'"),
    "a slice without outcomes": (drop_at("outcomes", "e2b"), "and not in 'outcomes'"),
    "a score without outcomes": (drop_at("outcomes", "e2b", "mmlu"), "e2b on mmlu is in 'scores'"),
    "outcomes without a score": (drop_at("scores", "e2b", "mmlu"), "e2b on mmlu is in 'outcomes'"),
    "a task not described": (drop_at("tasks", "mmlu"), "mmlu is in 'outcomes' and not in 'tasks'"),
    "a task nobody answered": (
        all_of(
            *(
                drop_at(part, name, "mmlu")
                for part in ("scores", "outcomes")
                for name in ("e2b", "e4b")
            )
        ),
        "no slice has outcomes of it",
    ),
    "a slice with nothing": (
        all_of(set_at("scores", "e2b", to={}), set_at("outcomes", "e2b", to={})),
        "slice e2b has no outcomes",
    ),
    "another score": (set_at("scores", "e2b", "boolq", to=12.34), "'scores' says 12.34 for e2b"),
    "a score that is none": (set_at("scores", "e2b", "boolq", to=float("nan")), "finite"),
    "surplus outcomes": (surplus, "hold more than 65 items"),
    "a surplus bit": (padding, "hold more than 65 items"),
    "an unknown key": (set_at("extra", to=1), "unknown key 'extra'"),
    "a number as text": (set_at("tasks", "boolq", "n", to="65"), "tasks.boolq.n"),
    "gated and not gated": (set_at("not_gated", to=["mmlu"]), "and in 'not_gated'"),
}


@pytest.mark.parametrize("case", PARTS_DISAGREE)
def test_a_baseline_whose_parts_disagree_is_refused(
    good: Path,
    document: dict[str, Any],
    tmp_path: Path,
    case: str,
) -> None:
    edit, wanted = PARTS_DISAGREE[case]
    changed = copy.deepcopy(document)
    edit(changed)
    path = tmp_path / "baseline.yaml"
    path.write_text(yaml.safe_dump(changed))
    done = run_here("gate", good, "--baseline", path, "--allow-new", "--allow-missing")
    assert done.code == 2 and wanted in done.err and not done.out, done
    assert len(done.err.splitlines()) == 1


def test_a_doubled_key_is_refused(good: Path, document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "baseline.yaml"
    path.write_text(yaml.safe_dump(document) + "seed: 1234\n")
    done = run_here("gate", good, "--baseline", path)
    assert done.code == 2 and "'seed' appears twice" in done.err, done


OTHERWISE = {
    "parent": (set_at("parent", to="tiny"), ("tiny", "google/gemma-3n-E4B")),
    "fingerprint": (set_at("fingerprint", to=OTHER), (OTHER, "5f" * 32)),
    "dtype": (set_at("dtype", to="float32"), ("float32", "bfloat16")),
    "limit": (set_at("limit", to=60), ("60", "None")),
    "seed": (set_at("seed", to=1), ("1", "1234")),
    "num_fewshot": (set_at("tasks", "mmlu", "num_fewshot", to=4), ("4", "5")),
    "metric": (set_at("tasks", "boolq", "metric", to="acc_norm"), ("acc_norm", "acc")),
    "version": (set_at("tasks", "boolq", "version", to="2.0"), ("2.0", "1.0")),
    "prompt_hash": (set_at("tasks", "boolq", "prompt_hash", to=OTHER), (OTHER, "a0" * 32)),
    "n": (
        all_of(
            set_at("tasks", "boolq", "n", to=8),
            *(set_at("outcomes", name, "boolq", to=["ff"]) for name in ("e2b", "e4b")),
            *(set_at("scores", name, "boolq", to=100.0) for name in ("e2b", "e4b")),
        ),
        ("8", "65"),
    ),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_other_conditions_are_refused_and_both_are_named(
    good: Path,
    document: dict[str, Any],
    tmp_path: Path,
    case: str,
) -> None:
    edit, (before, now) = OTHERWISE[case]
    changed = copy.deepcopy(document)
    edit(changed)
    path = tmp_path / "baseline.yaml"
    path.write_text(yaml.safe_dump(changed))
    done = run_here("gate", good, "--baseline", path)
    assert done.code == 2 and not done.out, done
    assert re.search(
        rf"{case} is {re.escape(before)} in the baseline and {re.escape(now)} in the sweep",
        done.err,
    ), done.err


def test_another_parent_is_compared_where_that_is_asked_for(
    good: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "baseline.yaml"
    path.write_text(yaml.safe_dump({**document, "fingerprint": OTHER, "parent": "mine"}))
    done = run_here("gate", good, "--baseline", path, "--allow-parent", "--markdown", "summary.md")
    assert done.code == 0, done
    summary = (tmp_path / "summary.md").read_text()
    assert "parent's weights are not those of the baseline" in summary and "mine" in summary


@pytest.mark.parametrize("part", ["slice", "task"])
def test_what_only_the_sweep_has_fails(
    good: Path,
    document: dict[str, Any],
    tmp_path: Path,
    part: str,
) -> None:
    """A slice or a task deleted from every part of the baseline, so that the rest agrees."""
    changed = copy.deepcopy(document)
    if part == "slice":
        for key in ("slices", "scores", "outcomes"):
            del changed[key]["e2b"]
    else:
        del changed["tasks"]["mmlu"]
        for key in ("scores", "outcomes"):
            for name in ("e2b", "e4b"):
                del changed[key][name]["mmlu"]
    path = tmp_path / "baseline.yaml"
    path.write_text(yaml.safe_dump(changed))
    files = ("--markdown", "s.md", "--junit", "s.xml")
    failed = run_here("gate", good, "--baseline", path, *files)
    assert failed.code == 1 and "not in the baseline" in failed.out, failed
    assert "❌ not in the baseline" in (tmp_path / "s.md").read_text()
    assert "<failure" in (tmp_path / "s.xml").read_text()
    wrong = run_here("gate", good, "--baseline", path, "--allow-missing")
    assert wrong.code == 1, wrong
    allowed = run_here("gate", good, "--baseline", path, "--allow-new", *files)
    assert allowed.code == 0 and "new, not compared" in allowed.out, allowed
    assert "🆕 not compared" in (tmp_path / "s.md").read_text()
    assert "<skipped" in (tmp_path / "s.xml").read_text()


def test_a_comparison_of_nothing_is_no_pass(
    good: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    changed = copy.deepcopy(document)
    for key in ("slices", "scores", "outcomes"):
        changed[key] = {f"other-{name}": value for name, value in changed[key].items()}
    path = tmp_path / "baseline.yaml"
    path.write_text(yaml.safe_dump(changed))
    for flags in ((), ("--allow-new", "--allow-missing")):
        done = run_here("gate", good, "--baseline", path, *flags)
        assert done.code == 2 and "nothing was compared" in done.err, done


def test_outcomes_that_went_missing_fail(
    good: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(good, folder)
    for path in (folder / "samples").glob("*/boolq.parquet"):
        path.unlink()
    baseline = tmp_path / "baseline.yaml"
    baseline.write_text(yaml.safe_dump(document))
    result = run_gate(folder, baseline)
    assert {(check.task, check.status) for check in result.failed} == {("boolq", "missing")}
    # A baseline made from it says which task nothing holds, and the gate then says so too.
    run_gate(folder, tmp_path / "new.yaml", update=True)
    assert yaml.safe_load((tmp_path / "new.yaml").read_text())["not_gated"] == ["boolq"]
    again = run_gate(folder, tmp_path / "new.yaml")
    assert again.ok and any("Not gated" in note for note in again.notes)
    assert {check.status for check in run_gate(good, tmp_path / "new.yaml").failed} == {"new"}


@pytest.mark.parametrize("key", ["limit", "seed", "dtype", "prompt_hash", "as_run"])
def test_a_sweep_that_does_not_say_what_its_scores_rest_on_is_refused(
    good: Path,
    document: dict[str, Any],
    tmp_path: Path,
    key: str,
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(good, folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    if key == "prompt_hash":
        del recipe["as_run"]["tasks"]["boolq"]["prompt_hash"]
    else:
        del recipe[key]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "baseline.yaml").write_text(yaml.safe_dump(document))
    named = "as_run.tasks.boolq.prompt_hash" if key in ("prompt_hash", "as_run") else key
    for arguments in (("baseline.yaml",), ("new.yaml", "--update")):
        done = run_here("gate", folder, "--baseline", *arguments)
        assert done.code == 2 and "recipe.yaml: does not say" in done.err, done
        assert named in done.err
    assert not (tmp_path / "new.yaml").exists()


def test_the_projects_own_baseline_is_whole() -> None:
    baseline = load_baseline(ROOT / ".ci" / "baseline.yaml")
    assert len(baseline.slices) == 23 and len(baseline.tasks) == 3
    assert all(len(found) == 3 for found in baseline.outcomes.values())

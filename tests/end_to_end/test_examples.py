"""Every public name has an example in its docstring, and the examples run."""

import doctest
import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import matformer_lab as ml

# Made when the package is imported, so its stub file does not know of it.
NAMES: list[str] = vars(ml)["__all__"]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
OF_A_SWEEP = {
    "GateResult",
    "SweepResults",
    "compare_sweeps",
    "load_results",
    "load_samples",
    "read_sweep",
    "run_gate",
    "write_report",
}
"""They read a finished sweep in runs/demo."""
ELSEWHERE = {"push", "Pushed", "ray_cluster"}
"""They need an account on the Hub, or a cluster: of their examples only the import runs."""
REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "python.md"


def runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    public: Any = getattr(ml, name)
    (found,) = doctest.DocTestFinder(recurse=False).find(public, name, globs={})
    done = [each for each in found.examples if doctest.SKIP not in each.options]
    beyond = [each for each in done if not each.source.startswith("import ")]
    assert beyond or name in ELSEWHERE, f"{inspect.getsourcefile(public)}: {name} has no example"
    with capsys.disabled():
        failed, _ = doctest.DocTestRunner(optionflags=OPTIONS).run(found)
    assert not failed


@pytest.mark.parametrize("name", sorted({*NAMES} - OF_A_SWEEP))
def test_the_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs(name, capsys)


def test_the_examples_of_a_finished_sweep_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = ml.parse_recipe(
        {
            "parent": "tiny",
            "slices": ["e2b", "e4b"],
            "tasks": ["tiny_boolq"],
            "limit": 20,
            "apply_chat_template": False,
            "dtype": "float32",
        }
    )
    ml.run_sweep(recipe, "runs/demo")
    shutil.copytree("runs/demo", "runs/again")
    ml.run_gate("runs/demo", "baseline.yaml", update=True)
    for name in sorted(OF_A_SWEEP):
        runs(name, capsys)


def test_the_reference_has_every_public_name() -> None:
    listed = re.findall(r"^::: matformer_lab\.(\w+)$", REFERENCE.read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(NAMES)

"""Every public name has an example in its docstring, and the examples run."""

import doctest
import inspect
from pathlib import Path
from typing import Any

import pytest

import matformer_lab as ml

# Made when the package is imported, so its stub file does not know of it.
NAMES: list[str] = vars(ml)["__all__"]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    public: Any = getattr(ml, name)
    monkeypatch.chdir(tmp_path)
    (found,) = doctest.DocTestFinder(recurse=False).find(public, name, globs={})
    assert found.examples, f"{inspect.getsourcefile(public)}: {name} has no example"
    with capsys.disabled():
        failed, _ = doctest.DocTestRunner(optionflags=OPTIONS).run(found)
    assert not failed

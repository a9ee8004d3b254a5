"""Where the gate writes: its own files only, each once, and none of the sweep's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from matformer_lab.common.errors import InputError
from matformer_lab.gate.baseline import is_baseline
from matformer_lab.gate.sealed import check_replaceable, content_to_replace, real_path
from matformer_lab.results.files import (
    RECIPE_YAML,
    REPORT_FILES,
    RESULTS_CSV,
    RESULTS_PARQUET,
    SAMPLES,
    SEARCH_FILES,
    SLICES_JSON,
    STORE,
)

SUMMARY: Final = "gate summary"
JUNIT: Final = "gate JUnit file"
_OF_THE_SWEEP: Final = frozenset(
    (
        RECIPE_YAML,
        *REPORT_FILES,
        RESULTS_CSV,
        RESULTS_PARQUET,
        SAMPLES,
        *SEARCH_FILES,
        SLICES_JSON,
        STORE,
    )
)


def check_targets(
    folder: Path,
    baseline: Path,
    *,
    update: bool,
    markdown: Path | None,
    junit: Path | None,
) -> None:
    """Check every file that the gate is to write, before it writes any.

    Args:
        folder: The sweep's folder.
        baseline: The baseline.
        update: Whether it is to be written.
        markdown: The summary to write.
        junit: The JUnit file to write.

    Raises:
        InputError: When two of them are one file, one lies among the sweep's own files, or one
            would replace a file that is not the gate's.
    """
    named = {"baseline": baseline, "markdown": markdown, "junit": junit}
    given = {name: path for name, path in named.items() if path is not None}
    _check_distinct(given)
    for name, path in given.items():
        if name != "baseline" or update:
            _check_not_of_sweep(path, folder)
    if update and (found := content_to_replace(baseline)) and not is_baseline(found):
        raise InputError(
            f"{baseline}: is not a baseline, and `update` would replace it; "
            "move it away or choose another name"
        )
    if markdown:
        check_replaceable(markdown, SUMMARY)
    if junit:
        check_replaceable(junit, JUNIT)


def _check_distinct(given: Mapping[str, Path]) -> None:
    seen: dict[str, str] = {}
    for name, path in given.items():
        # Names that differ in case only are one file on some systems, and a mistake on all.
        other = seen.setdefault(str(real_path(path)).casefold(), name)
        if other != name:
            raise InputError(f"{path}: given as `{other}` and as `{name}`; give two files")


def _check_not_of_sweep(path: Path, folder: Path) -> None:
    root, target = real_path(folder), real_path(path)
    if root not in target.parents:
        return
    first = target.relative_to(root).parts[0]
    if first.casefold() in _OF_THE_SWEEP or first.startswith("."):
        raise InputError(f"{path}: is a name of the sweep's own files; choose another name")

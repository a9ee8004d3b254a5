"""The gate's baseline: a YAML file that lives in the repository and reviews well.

On top is a table of scores, one line per slice and task; below it, which items each slice got
right, 256 to a line, so that the comparison can be paired and a diff shows how much really changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.strict_yaml import load_yaml
from matformer_lab.common.validation import explain
from matformer_lab.results.pairing import Asked
from matformer_lab.results.sweep_results import SweepResults, TaskScores
from matformer_lab.statistics.outcomes import Floats

_LINE = 64  # hex digits, or numbers, on a line of outcomes
_HEADER = """\
# Baseline of `matformer-lab gate`: the scores somebody last called good. Rewritten by --update.
# scores: percent. outcomes: one bit an item (right or wrong), in the order of subject and document,
# 256 items a line, so that a changed line is a changed answer.
"""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskBaseline(_Model):
    """What has to stay the same for the outcomes of a task to be comparable."""

    metric: str
    num_fewshot: int | None
    n: Annotated[int, Field(ge=1)]
    items: str
    """sha256 (hex) over the items' ids, in order."""
    encoding: Literal["bits", "numbers"]

    @property
    def asked(self) -> Asked:
        """The same without the encoding."""
        return Asked(self.metric, self.num_fewshot, self.n, self.items)


class Baseline(_Model):
    """The content of a baseline file."""

    format: Literal[1] = 1
    parent: str
    fingerprint: str
    tasks: dict[str, TaskBaseline]
    scores: dict[str, dict[str, float]]
    """slice -> task -> percent, for people; the gate uses `outcomes`."""
    slices: dict[str, str]
    """slice -> digest of its widths and skipped layers."""
    outcomes: dict[str, dict[str, tuple[str, ...]]]
    """slice -> task -> lines of text that `decode` reads."""


def make_baseline(sweep: SweepResults) -> Baseline:
    """The sweep as a baseline; only tasks with per-item outcomes can be gated.

    Raises:
        InputError: When no task has per-item outcomes.
    """
    tasks = [task for task in sweep.tasks if task.outcomes is not None]
    if not tasks:
        raise InputError(
            f"{sweep.folder}: no task has per-item outcomes, so there is nothing to gate"
        )
    outcomes: dict[str, dict[str, tuple[str, ...]]] = {}
    scores: dict[str, dict[str, float]] = {}
    described = {task.name: describe_task(task) for task in tasks}
    for scored in sweep.scored:
        for task in tasks:
            assert task.outcomes is not None
            if scored.name in task.slices:
                at = task.slices.index(scored.name)
                lines = encode(task.outcomes.scores[at], described[task.name].encoding)
                outcomes.setdefault(scored.name, {})[task.name] = lines
                scores.setdefault(scored.name, {})[task.name] = round(100 * task.values[at], 2)
    return Baseline(
        parent=sweep.parent.name,
        fingerprint=sweep.parent.fingerprint,
        tasks=described,
        scores=scores,
        slices={s.name: s.slice.digest for s in sweep.scored if s.name in outcomes},
        outcomes=outcomes,
    )


def dump_baseline(baseline: Baseline) -> str:
    """The text of a baseline file."""
    document = baseline.model_dump(mode="json")
    return _HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)


def load_baseline(path: Path) -> Baseline:
    """Read a baseline file.

    Raises:
        InputError: When there is none or it is not valid; names the file and the key at fault.
    """
    if not path.exists():
        raise InputError(f"{path}: no baseline yet; make one with `update=True`")
    try:
        return Baseline.model_validate(load_yaml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, Baseline)}") from None


def describe_task(task: TaskScores) -> TaskBaseline:
    """What the baseline records about a task, which must have per-item outcomes."""
    assert task.outcomes is not None
    encoding: Literal["bits", "numbers"] = "bits" if task.outcomes.binary else "numbers"
    return TaskBaseline(**asdict(task.asked), encoding=encoding)


def encode(scores: Floats, encoding: str) -> tuple[str, ...]:
    """One slice's outcomes, [items], as lines of text."""
    if encoding == "numbers":
        words = [f"{score:.6g}" for score in scores]
        return tuple(" ".join(words[k : k + _LINE]) for k in range(0, len(words), _LINE))
    digits = np.packbits(scores.astype(np.uint8)).tobytes().hex()
    return tuple(digits[k : k + _LINE] for k in range(0, len(digits), _LINE))


def decode(lines: Sequence[str], task: TaskBaseline, where: str) -> Floats:
    """The outcomes, [items], that `encode` wrote.

    Args:
        lines: What it wrote.
        task: The task of the outcomes.
        where: Names them in an error.

    Raises:
        InputError: When the lines are damaged or not of that many items.
    """
    try:
        if task.encoding == "numbers":
            scores = np.array([float(word) for line in lines for word in line.split()])
        else:
            bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(lines)), dtype=np.uint8))
            scores = bits.astype(np.float64)[: task.n]
    except ValueError as error:
        raise InputError(f"baseline: outcomes of {where}: {one_line(error)}") from None
    if len(scores) != task.n or not np.isfinite(scores).all():
        raise InputError(
            f"baseline: outcomes of {where} are not a number for each of {task.n} items"
        )
    return scores

"""The gate's baseline: a YAML file that lives in the repository and reviews well.

On top is what the scores rest on and a table of them, one line per slice and task; below it, which
items each slice got right, 256 to a line, so that the comparison can be paired and a diff shows how
much really changed. Its parts say the same thing twice, and are refused where they disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.files.strict_yaml import load_yaml, parse_yaml
from matformer_lab.common.validation import explain
from matformer_lab.results.files import RECIPE_YAML
from matformer_lab.results.pairing import Asked
from matformer_lab.results.sweep_results import SweepResults, TaskScores
from matformer_lab.statistics.outcomes import Floats, Outcomes

_FORMAT: Final = 2
_LINE: Final = 64  # hex digits, or numbers, on a line of outcomes
_ROUNDING: Final = 0.005 + 1e-9
"""How far a score in percent with two decimals may be from the score itself."""
_HEADER = """\
# Baseline of `matformer-lab gate`: the scores somebody last called good. Rewritten by --update.
# scores: percent. outcomes: one bit an item (right or wrong), in the order of subject and document,
# 256 items a line, so that a changed line is a changed answer.
"""

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Lines = Annotated[tuple[str, ...], Field(strict=False)]  # YAML has lists only
_Names = Annotated[tuple[str, ...], Field(strict=False)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TaskBaseline(_Model):
    """What has to stay the same for the outcomes of a task to be comparable."""

    metric: str
    num_fewshot: int | None
    version: str
    n: Annotated[int, Field(ge=1)]
    items: _Digest
    """sha256 (hex) over the items' ids, in order."""
    prompt_hash: str
    """sha256 (hex) over questions and prompts."""
    mean_over: Literal["items", "subjects"]
    """What the score is the mean of: all items, or the means of the subjects."""
    encoding: Literal["bits", "numbers"]

    @property
    def asked(self) -> Asked:
        """What the task was asked, as of a sweep."""
        return Asked(
            self.metric, self.num_fewshot, self.version, self.n, self.items, self.prompt_hash
        )


class Baseline(_Model):
    """The content of a baseline file."""

    format: Literal[2]
    parent: str
    fingerprint: str
    dtype: str
    limit: float | int | None
    seed: int
    tasks: dict[str, TaskBaseline]
    not_gated: _Names
    """Tasks without per-item outcomes, whose scores nothing holds."""
    scores: dict[str, dict[str, float]]
    """slice -> task -> percent."""
    slices: dict[str, _Digest]
    """slice -> digest of its widths and skipped layers."""
    outcomes: dict[str, dict[str, _Lines]]
    """slice -> task -> lines of text that `decode` reads."""


def make_baseline(sweep: SweepResults) -> Baseline:
    """The sweep as a baseline; only tasks with per-item outcomes can be gated.

    Raises:
        InputError: When no task has per-item outcomes, or recipe.yaml does not say what the scores
            rest on.
    """
    tasks = gated_tasks(sweep)
    if not tasks:
        raise InputError(
            f"{sweep.folder}: no task has per-item outcomes, so there is nothing to gate"
        )
    check_conditions_known(sweep)
    assert sweep.dtype is not None
    outcomes: dict[str, dict[str, tuple[str, ...]]] = {}
    scores: dict[str, dict[str, float]] = {}
    described = {name: describe_task(task) for name, task in tasks.items()}
    for scored in sweep.scored:
        for name, task in tasks.items():
            assert task.outcomes is not None
            if scored.name in task.slices:
                at = task.slices.index(scored.name)
                lines = encode(task.outcomes.scores[at], described[name].encoding)
                outcomes.setdefault(scored.name, {})[name] = lines
                value = float(task.outcomes.values[at])
                scores.setdefault(scored.name, {})[name] = round(100 * value, 2)
    return Baseline(
        format=_FORMAT,
        parent=sweep.parent.name,
        fingerprint=sweep.parent.fingerprint,
        dtype=sweep.dtype,
        limit=sweep.recipe["limit"],
        seed=sweep.recipe["seed"],
        tasks=described,
        not_gated=tuple(task.name for task in sweep.tasks if task.outcomes is None),
        scores=scores,
        slices={s.name: s.slice.digest for s in sweep.scored if s.name in outcomes},
        outcomes=outcomes,
    )


def gated_tasks(sweep: SweepResults) -> dict[str, TaskScores]:
    """The tasks that have per-item outcomes, by name."""
    return {task.name: task for task in sweep.tasks if task.outcomes is not None}


def check_conditions_known(sweep: SweepResults) -> None:
    """Check that a sweep says what its scores rest on: what is not known cannot be compared.

    Raises:
        InputError: Naming the keys of recipe.yaml that are missing.
    """
    missing = ["limit"] if "limit" not in sweep.recipe else []
    missing += ["seed"] if sweep.recipe.get("seed") is None else []
    missing += ["dtype"] if sweep.dtype is None else []
    missing += [] if sweep.parent.fingerprint else ["as_run.parent.fingerprint"]
    for name, task in gated_tasks(sweep).items():
        for key, value in (("version", task.version), ("prompt_hash", task.prompt_hash)):
            missing += [] if value else [f"as_run.tasks.{name}.{key}"]
    if missing:
        raise InputError(
            f"{sweep.folder / RECIPE_YAML}: does not say {', '.join(missing)}, so nobody can tell "
            "what its scores are comparable with; run the sweep again"
        )


def dump_baseline(baseline: Baseline) -> str:
    """The text of a baseline file."""
    document = baseline.model_dump(mode="json")
    return _HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)


def load_baseline(path: Path) -> Baseline:
    """Read a baseline file.

    Raises:
        InputError: When there is none, it is not valid or its parts disagree; names the file and
            what is at fault.
    """
    if not path.exists():
        raise InputError(f"{path}: no baseline yet; make one with `update=True`")
    written = load_yaml(path)
    if isinstance(written, dict) and isinstance(found := written.get("format"), int):
        if found < _FORMAT:
            raise InputError(
                f"{path}: is an earlier version's baseline, which does not say what its scores "
                "rest on; accept the sweep with `update=True`"
            )
        if found > _FORMAT:
            raise InputError(f"{path}: is a later version's baseline (format {found}); upgrade")
    try:
        baseline = Baseline.model_validate(written)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, Baseline)}") from None
    for problem in _disagreements(baseline):
        raise InputError(
            f"{path}: {problem}; restore the file, or accept a sweep with `update=True`"
        )
    return baseline


def is_baseline(data: bytes) -> bool:
    """Whether a file is a baseline, of this version or an earlier one, whole or with a mistake."""
    try:
        written = parse_yaml(data, "baseline")
    except InputError:
        return False
    known = set(Baseline.model_fields)
    always = known - {"dtype", "limit", "seed", "not_gated"}  # those of format 1
    return isinstance(written, dict) and always <= set(written) <= known


def _disagreements(baseline: Baseline) -> Iterator[str]:
    """What one part says and another does not, in words."""
    parts: dict[str, Mapping[str, Any]] = {
        "slices": baseline.slices,
        "scores": baseline.scores,
        "outcomes": baseline.outcomes,
    }
    for part, content in {"tasks": baseline.tasks, **parts}.items():
        if not content:
            yield f"key '{part}' is empty"
    for part, content in parts.items():
        for other, slices in parts.items():
            for name in slices.keys() - content.keys():
                yield f"slice {name} is in '{other}' and not in '{part}'"
    for name, outcomes in baseline.outcomes.items():
        if not outcomes:
            yield f"slice {name} has no outcomes"
        yield from _disagreements_on_slice(baseline, name)
    for task in baseline.tasks:
        if not any(task in outcomes for outcomes in baseline.outcomes.values()):
            yield f"task {task} is in 'tasks', and no slice has outcomes of it"
        if task in baseline.not_gated:
            yield f"task {task} is in 'tasks' and in 'not_gated'"


def _disagreements_on_slice(baseline: Baseline, name: str) -> Iterator[str]:
    outcomes, scores = baseline.outcomes[name], baseline.scores[name]
    for task in sorted(outcomes.keys() ^ scores.keys()):
        part, other = ("scores", "outcomes") if task in outcomes else ("outcomes", "scores")
        yield f"{name} on {task} is in '{other}' and not in '{part}'"
    for task, lines in outcomes.items():
        if task not in baseline.tasks:
            yield f"task {task} is in 'outcomes' and not in 'tasks'"
            continue
        found = decode(lines, baseline.tasks[task], f"{name} on {task}")
        if baseline.tasks[task].mean_over == "items":
            yield from score_contradictions(baseline, name, task, float(found.mean()))


def score_contradictions(baseline: Baseline, slice_: str, task: str, value: float) -> Iterator[str]:
    """How the score that is written differs from the one that the outcomes give, in words.

    Args:
        baseline: The baseline.
        slice_: A slice of it.
        task: A task of it.
        value: The score by its outcomes, as a fraction.
    """
    written = baseline.scores[slice_][task]
    if not abs(written - 100 * value) <= _ROUNDING:
        yield (
            f"'scores' says {written:g} for {slice_} on {task}, "
            f"but its outcomes give {100 * value:.2f}"
        )


def describe_task(task: TaskScores) -> TaskBaseline:
    """What the baseline records about a task, which must have per-item outcomes."""
    assert task.outcomes is not None
    return TaskBaseline(
        **asdict(task.asked),
        mean_over=mean_over(task.outcomes),
        encoding="bits" if task.outcomes.binary else "numbers",
    )


def mean_over(outcomes: Outcomes) -> Literal["items", "subjects"]:
    """What a task's score is the mean of."""
    return "items" if np.ptp(outcomes.weights) == 0 else "subjects"


def encode(scores: Floats, encoding: str) -> tuple[str, ...]:
    """One slice's outcomes, [items], as lines of text."""
    if encoding == "numbers":
        words = [repr(float(score)) for score in scores]
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
    if encode(scores, task.encoding) != tuple(lines):
        raise InputError(
            f"baseline: outcomes of {where} hold more than {task.n} items, or are not written as "
            "`gate` writes them"
        )
    return scores

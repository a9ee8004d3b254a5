"""recipe.yaml of a finished sweep: what was asked, and with what it ran."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_yaml import parse_yaml
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.validation import explain

AGREEMENT = "agreement"
"""The name under which agreement with the parent is scored, as a task of its own."""


class _Model(BaseModel):
    # Folders written by later versions may hold more keys; they stay readable.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class TaskAsked(_Model):
    """A task entry of the recipe."""

    name: str
    alias: str | None = None
    metric: str | None = None
    num_fewshot: int | None = None

    @property
    def label(self) -> str:
        """What the task is called in the results."""
        return self.alias or self.name


class TaskAsRun(_Model):
    """What a task's scores rest on."""

    version: str | None = None
    prompt_hash: str | None = None


class _Fingerprinted(_Model):
    fingerprint: str | None = None
    revision: str | None = None


class _Tokenizer(_Model):
    sha256: str | None = None


class AsRun(_Model):
    """What a sweep ran with, as far as results are checked against it."""

    parent: _Fingerprinted = _Fingerprinted()
    tokenizer: _Tokenizer = _Tokenizer()
    versions: dict[str, Any] = {}
    tasks: dict[str, TaskAsRun] = {}
    slices: dict[str, str] = {}


class RecipeAsRun(_Model):
    """The recipe as it ran."""

    tasks: list[str | TaskAsked] = []
    agreement: dict[str, Any] | None = None
    dtype: str | None = None
    limit: float | None = Field(default=None, gt=0)
    seed: int | None = None
    as_run: AsRun = AsRun()

    @property
    def asked(self) -> dict[str, TaskAsked]:
        """The task entries by what the results call them, and `agreement` last if asked for."""
        entries = [TaskAsked(name=task) if isinstance(task, str) else task for task in self.tasks]
        if entries and self.agreement is not None:
            entries.append(TaskAsked(name=AGREEMENT))
        return {entry.label: entry for entry in entries}


def read_recipe(path: Path) -> tuple[RecipeAsRun, Mapping[str, Any]]:
    """The recipe as it ran, checked, and everything that its file holds.

    Raises:
        InputError: When there is none or it is not valid; names the file and the key at fault.
    """
    if not path.exists():
        raise InputError(f"{path}: not found; {path.parent} is not a finished sweep")
    written = parse_yaml(read_small(path), str(path))
    if not isinstance(written, dict) or not all(isinstance(key, str) for key in written):
        raise InputError(f"{path}: must hold a mapping")
    try:
        return RecipeAsRun.model_validate(written), written
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, RecipeAsRun)}") from None


def mixed_modes(as_run: Mapping[str, Any]) -> list[str]:
    """A sentence for each task whose scores were computed in several modes (`TokenBudget`).

    Args:
        as_run: A recipe's, as it is written.
    """
    budgets = as_run.get("budgets")
    found = []
    for task, of in budgets.items() if isinstance(budgets, Mapping) else ():
        listed = [each for each in of if isinstance(each, Mapping)] if isinstance(of, list) else []
        modes = dict.fromkeys(str(each.get("mode")) for each in listed)
        if len(modes) > 1:
            found.append(
                f"{task}: its scores were computed in several modes ({', '.join(modes)}), which "
                "round differently; with `compile: off` all are computed alike."
            )
    return found

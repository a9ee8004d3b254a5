"""What a score depends on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

_ADDED: Final = ("turns", "gen_kwargs", "task_files")


@dataclass(frozen=True)
class Key:
    """What a score depends on.

    `slice` and `task` say which score it is; the other fields have to match for it to be used.
    """

    slice: str
    """Digest of widths and skipped layers; the slice's name may change freely."""
    task: str
    parent: str
    """Hub id and commit, else the fingerprint of the files."""
    tokenizer: str
    """sha256 (hex) of the tokenizer."""
    task_version: str
    prompt_hash: str
    num_fewshot: int | None
    seed: int
    limit: float | None
    dtype: str
    device: str
    """cpu, cuda or mps."""
    scorer: str
    lm_eval: str
    torch: str
    transformers: str
    turns: str | None = None
    """How prompts are made, where they are not plain text (`Prompting.turns`)."""
    gen_kwargs: str | None = None
    """Arguments of generation that the recipe sets."""
    task_files: str | None = None
    """sha256 (hex) of the recipe's own task files, and their code; None for lm-eval's tasks."""

    @cached_property
    def fields(self) -> dict[str, Any]:
        """All fields but those that say nothing and came later: older keys stay as they were."""
        return {
            name: value
            for name, value in asdict(self).items()
            if not (name in _ADDED and value is None)
        }

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over all fields."""
        return hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode()).hexdigest()

    def differences(self, other: Mapping[str, Any]) -> tuple[str, ...]:
        """How a stored key differs from this one: `torch 2.12.0 -> 2.13.0` for each field."""
        return tuple(
            f"{name} {_short(other.get(name))} -> {_short(value)}"
            for name, value in asdict(self).items()
            if other.get(name) != value
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"

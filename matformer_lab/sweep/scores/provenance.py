"""Where scores come from: versions, hashes and the recipe as it ran."""

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matformer_lab.common.version import __version__
from matformer_lab.evaluation.tasks.entry import TaskEntry
from matformer_lab.evaluation.tasks.loading import LoadedTask
from matformer_lab.evaluation.tasks.prompts.prompting import DEFAULT_TEMPLATE, chat_templates
from matformer_lab.live.compute_dtype import ComputeDtype
from matformer_lab.parent.opening import TINY
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.slice import Slice
from matformer_lab.sweep.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILE: Final = re.compile(r"[^#]+\.(yaml|yml|csv)(#.*)?", re.IGNORECASE)


def as_run_yaml(
    recipe: Recipe,
    parent: Parent,
    slices: Sequence[Slice],
    tasks: Sequence[LoadedTask],
    *,
    tokenizer: "PreTrainedTokenizerBase",
    tokenizer_sha256: str,
    device: str,
    dtype: ComputeDtype,
    device_names: Sequence[str],
    budgets: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> str:
    """The recipe as it ran, in YAML: a valid recipe that records what is needed to run it again.

    Args:
        recipe: As the user wrote it.
        parent: The opened parent.
        slices: The recipe's slices, resolved.
        tasks: The recipe's tasks, loaded.
        tokenizer: The parent's.
        tokenizer_sha256: In hex.
        device: Where the scores were computed.
        dtype: What they were computed in.
        device_names: The hardware's names.
        budgets: By task, how batches were bounded and run, where that depends on the machine.
    """
    import yaml

    document = portable(recipe, parent)
    document["dtype"] = dtype.name
    entries = {entry.label: entry for entry in recipe.tasks}
    document["tasks"] = [
        _entry_as_run(entries[task.name], task) for task in tasks if task.name in entries
    ]
    document["as_run"] = {
        "written": now(),
        "parent": {
            "name": parent.name,
            "revision": parent.revision,
            "fingerprint": parent.fingerprint,
        },
        "tokenizer": {
            "sha256": tokenizer_sha256,
            "add_bos_token": True,
            "bos_token_id": tokenizer.bos_token_id,
        },
        **_said(chat_template=_chat_template(recipe, tokenizer)),
        "device": {"kind": device, "name": ", ".join(device_names)},
        **_said(
            budgets={task: [dict(each) for each in of] for task, of in (budgets or {}).items()}
            or None
        ),
        "dtype": {"asked": recipe.dtype, "reason": dtype.reason},
        "versions": library_versions(),
        "tasks": {
            task.name: {
                "version": task.version,
                "prompt_hash": task.prompt_hash,
                "items": task.items,
                "datasets": list(task.datasets),
                "num_fewshot": task.num_fewshot,
                **_said(
                    num_fewshot_asked=task.num_fewshot_asked,
                    gen_kwargs=task.gen_kwargs and json.loads(task.gen_kwargs),
                    files=dict(task.files) or None,
                ),
            }
            for task in tasks
        },
        "slices": {slice_.name: slice_.digest for slice_ in slices},
    }
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=100)


def _chat_template(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase") -> dict[str, str] | None:
    """The chat template that the prompts were made with; None for plain ones."""
    asked = recipe.apply_chat_template
    if not asked:
        return None
    name = DEFAULT_TEMPLATE if asked is True else asked
    text = chat_templates(tokenizer)[name]
    return {"name": name, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _entry_as_run(entry: TaskEntry, task: LoadedTask) -> dict[str, Any]:
    """A task as the recipe names it, with what was used in place of what was left out."""
    return {
        "name": entry.name,
        **_said(alias=entry.alias),
        "num_fewshot": task.num_fewshot,
        "metric": task.metric,
        **_said(gen_kwargs=entry.gen_kwargs),
    }


def _said(**values: Any) -> dict[str, Any]:
    """What there is something to say of."""
    return {name: value for name, value in values.items() if value is not None}


def portable(recipe: Recipe, parent: Parent) -> dict[str, Any]:
    """The recipe's keys and values, without anything that depends on where its file is."""
    document = recipe.model_dump(mode="json", exclude={"as_run"})
    if parent.revision:
        document["parent"] = f"{parent.name}@{parent.revision}"
    elif parent.ref != TINY:
        document["parent"] = str(Path(parent.ref).absolute())
    document["slices"] = _portable_slices(recipe, parent)
    if recipe.agreement and str(recipe.agreement.text) != TINY:
        document["agreement"]["text"] = str((recipe.base / recipe.agreement.text).absolute())
    if recipe.task_folders:
        document["task_folders"] = [str(folder) for folder in recipe.task_folder_paths]
    if recipe.datasets_folder:
        document["datasets"] = str(recipe.datasets_folder)
    return document


def _portable_slices(recipe: Recipe, parent: Parent) -> list[Any]:
    """The recipe's entries, with those from files written out, so that no other file is needed."""
    entries: list[Any] = []
    for entry in recipe.slices:
        if isinstance(entry, str) and _FILE.fullmatch(entry):
            found = resolve_slices([entry], parent, recipe.base)
            entries += [
                {
                    "name": slice_.name,
                    "widths": list(slice_.widths),
                    "skip": list(slice_.skipped),
                    **({"published": slice_.published.model_dump()} if slice_.published else {}),
                }
                for slice_ in found
            ]
        else:
            entries.append(entry)
    return entries


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """sha256 (hex) of the fast tokenizer's full definition."""
    definition: str = tokenizer.backend_tokenizer.to_str()
    return hashlib.sha256(definition.encode()).hexdigest()


@cache
def library_versions() -> Mapping[str, str]:
    """The versions of everything that can change a score or is needed to compute it again."""
    names = ("lm_eval", "torch", "transformers", "tokenizers", "datasets", "numpy")
    return {
        "matformer_lab": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def device_name(device: str) -> str:
    """The hardware's name: the GPU's, else the processor's."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return platform.processor() or platform.machine()


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")

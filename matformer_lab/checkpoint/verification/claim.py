"""Which slice a checkpoint folder says it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matformer_lab.checkpoint.disk.staging import is_staging
from matformer_lab.checkpoint.manifest import (
    MANIFEST_FILE,
    read_manifest,
)
from matformer_lab.checkpoint.verification.accounting import is_free
from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import NOTEBOOK_SKIP, is_multimodal, is_notebooks, read_text_config
from matformer_lab.parent.folder import read_config
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.plan import Plan, make_plan
from matformer_lab.slicing.slice import Slice


def is_family(folder: Path) -> bool:
    """Whether `folder` holds checkpoints written by this tool, rather than being one itself."""
    return not (folder / "config.json").exists() and any(folder.glob(f"*/{MANIFEST_FILE}"))


def members_of(folder: Path) -> list[Path]:
    """The checkpoints of a family; the folder itself if it is not a family."""
    if not is_family(folder):
        return [folder]
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def strangers_of(family: Path) -> list[str]:
    """What is in a family's folder besides its members and what `accounting` calls free.

    A staging folder is free too: a killed run left it, and the next one goes on with it.
    """
    members = set(members_of(family))
    return [
        path.name
        for path in sorted(family.iterdir())
        if path not in members and not is_free(path) and not is_staging(path)
    ]


def claimed_plan(folder: Path, parent: Parent, slice_: Slice | None = None) -> Plan:
    """The plan that a checkpoint should match.

    Args:
        folder: The checkpoint.
        parent: What it was cut from.
        slice_: The slice that it has to be; None: the one that it claims to be.

    Raises:
        InputError: As `claimed_slice`; or when the slice does not fit the parent.
    """
    config = read_config(folder)
    slice_ = slice_ or claimed_slice(folder, config, parent)
    return make_plan(parent, slice_, text_only=not is_multimodal(config))


def claimed_slice(folder: Path, config: Mapping[str, Any], parent: Parent) -> Slice:
    """The slice that a checkpoint claims to be: as its manifest says, or else its config.

    Args:
        folder: The checkpoint.
        config: Its config.json.
        parent: What it was cut from.

    Raises:
        InputError: When the manifest is not valid or does not fit the parent; or when there is no
            manifest and layers were skipped, which the config does not identify.
    """
    manifest = read_manifest(folder)
    if manifest is not None:
        claimed = manifest.to_slice()
        layers = parent.text.num_hidden_layers
        fits = set(claimed.skipped) <= set(range(layers))
        if not fits or len(claimed.kept(layers)) != len(claimed.widths):
            raise InputError(
                f"{folder / MANIFEST_FILE}: its slice does not fit the parent {parent.name}; give "
                "the `parent` that it was cut from"
            )
        return claimed
    text = read_text_config(config, str(folder / "config.json"))
    if is_notebooks(config) and parent.text.num_hidden_layers == len(NOTEBOOK_SKIP) + len(
        text.intermediate_size
    ):
        return Slice(folder.name, text.intermediate_size, tuple(NOTEBOOK_SKIP))
    if text.num_hidden_layers != parent.text.num_hidden_layers:
        raise InputError(
            f"{folder}: has no {MANIFEST_FILE} to say which layers were skipped; give `slice`"
        )
    return Slice(folder.name, text.intermediate_size)

"""Which slice a checkpoint folder says it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matformer_lab.checkpoint.disk.staging import is_staging
from matformer_lab.checkpoint.lineage import gaps_filled
from matformer_lab.checkpoint.manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestLink,
    read_manifest,
)
from matformer_lab.checkpoint.verification.accounting import is_free
from matformer_lab.checkpoint.verification.recognition import recognised
from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import (
    KV_TENSORS,
    NOTEBOOK_SKIP,
    TEXT_ONLY_PREFIX,
    TextConfig,
    is_multimodal,
    is_notebooks,
    lacking_rope,
    read_text_config,
    split_layer,
    text_part,
)
from matformer_lab.parent.folder import read_config, read_layout
from matformer_lab.parent.parent import Parent
from matformer_lab.parent.weights.spelling import FULL_PREFIX
from matformer_lab.slicing.filling import Gap, missing_kv
from matformer_lab.slicing.plan import Plan, plan_filled
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


@dataclass(frozen=True)
class Claim:
    """What a checkpoint says that it is of a parent.

    Attributes:
        slice: Which slice.
        fill: What of the parent's gaps is filled in.
        link: Where its manifest says so; None without a manifest, or one that knows that parent.
    """

    slice: Slice
    fill: frozenset[Gap]
    link: ManifestLink | None


def claimed_plan(
    folder: Path, parent: Parent, slice_: Slice | None = None, kv_from: Parent | None = None
) -> Plan:
    """The plan that a checkpoint should match.

    Args:
        folder: The checkpoint.
        parent: What it was cut from, or an ancestor of that.
        slice_: The slice that it has to be; None: the one that it claims to be.
        kv_from: The checkpoint that K/V were filled in from.

    Raises:
        InputError: As `claim_of`; or when the slice does not fit the parent.
    """
    return plan_of(claim_of(folder, parent, slice_), folder, parent, kv_from)


def plan_of(claim: Claim, folder: Path, parent: Parent, kv_from: Parent | None = None) -> Plan:
    """The plan that a checkpoint with this claim should match; arguments as for `claimed_plan`."""
    filled_from = claim.link.filled.kv_from if claim.link and claim.link.filled else None
    return plan_filled(
        parent,
        claim.slice,
        text_only=not is_multimodal(read_config(folder)),
        fill=claim.fill,
        kv_from=kv_from if filled_from or claim.link is None else None,
    )


def claim_of(folder: Path, parent: Parent, slice_: Slice | None = None) -> Claim:
    """What a checkpoint says that it is of `parent`: its manifest does, or else its config.

    Args:
        folder: The checkpoint.
        parent: What it was cut from, or an ancestor of that.
        slice_: The slice that it has to be, whatever it says; None: the one that it says.

    Raises:
        InputError: When the manifest is not valid or does not fit the parent; or when there is no
            manifest, layers were skipped, and neither config nor weights identify them.
    """
    config = read_config(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        slice_ = slice_ or _unsaid_slice(folder, config, parent)
        return Claim(slice_, _filled_already(folder, config, parent), None)
    link = _link_to(parent, manifest)
    if link is not None:
        return Claim(slice_ or link.to_slice(), gaps_filled(link.filled), link)
    slice_ = slice_ or recognised(folder, config, _text(folder, config), parent)
    if slice_ is None:
        raise InputError(
            f"{folder / MANIFEST_FILE}: its slice does not fit the parent {parent.name}; give "
            "the `parent` that it was cut from"
        )
    return Claim(slice_, _filled_already(folder, config, parent), None)


def _link_to(parent: Parent, manifest: Manifest) -> ManifestLink | None:
    """What a manifest says of a parent: known by its fingerprint, or else by its layers."""
    fitting = [link for link in (manifest.link, *manifest.ancestors) if _fits(link, parent)]
    if len(fitting) > 1:
        fitting.sort(key=lambda link: link.parent.fingerprint != parent.fingerprint)
    return fitting[0] if fitting else None


def _fits(link: ManifestLink, parent: Parent) -> bool:
    claimed = link.to_slice()
    layers = parent.text.num_hidden_layers
    there = set(claimed.skipped) <= set(range(layers))
    return there and len(claimed.kept(layers)) == len(claimed.widths)


def _unsaid_slice(folder: Path, config: Mapping[str, Any], parent: Parent) -> Slice:
    """The slice of a checkpoint without a manifest."""
    text = _text(folder, config)
    if is_notebooks(config) and parent.text.num_hidden_layers == len(NOTEBOOK_SKIP) + len(
        text.intermediate_size
    ):
        return Slice(folder.name, text.intermediate_size, tuple(NOTEBOOK_SKIP))
    layers, there = len(text.intermediate_size), parent.text.num_hidden_layers
    if layers > there:
        raise InputError(
            f"{folder}: has {layers} layers, and {parent.name} has {there}: it is not a slice of "
            "that parent; give the `parent` that it was cut from"
        )
    found = recognised(folder, config, text, parent)
    if found is None:
        raise InputError(
            f"{folder}: has no {MANIFEST_FILE} to say which layers were skipped, and its weights "
            "do not; give `slice`"
        )
    return found


def _text(folder: Path, config: Mapping[str, Any]) -> TextConfig:
    return read_text_config(config, str(folder / "config.json"))


def _filled_already(folder: Path, config: Mapping[str, Any], parent: Parent) -> frozenset[Gap]:
    """What a checkpoint without a manifest has of that which its parent lacks."""
    text, of_parent = text_part(config), text_part(parent.config)
    gaps = {
        Gap.ROPE: any(key not in lacking_rope(text) for key in lacking_rope(of_parent)),
        Gap.LAYER_TYPES: text.get("layer_types") is not None,
        Gap.KV: any(missing_kv(parent)) and _has_shared_kv(folder, config),
    }
    return frozenset(gap for gap, there in gaps.items() if there)


def _has_shared_kv(folder: Path, config: Mapping[str, Any]) -> bool:
    first = _text(folder, config).first_kv_shared_layer
    prefix = FULL_PREFIX if is_multimodal(config) else TEXT_ONLY_PREFIX
    try:
        names = [split_layer(name.removeprefix(prefix)) for name in read_layout(folder)]
    except InputError:
        return False  # said where the weights are compared
    return any(layer is not None and layer >= first and rest in KV_TENSORS for layer, rest in names)

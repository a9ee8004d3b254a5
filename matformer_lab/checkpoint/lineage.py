"""Lineage: what a slice of a slice is of the checkpoints further up.

A manifest says which slice of its parent a checkpoint is. Where the parent is a slice itself, so
that it has a manifest too, the checkpoint is also a slice of the parent's parent: the manifest
lists that, and `verify` can recompute the checkpoint from any of them.
"""

from matformer_lab.checkpoint.manifest import (
    Manifest,
    ManifestFilled,
    ManifestLink,
    ManifestParent,
    ManifestSlice,
    read_manifest,
)
from matformer_lab.common.errors import InputError
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.filling import Gap
from matformer_lab.slicing.plan import Plan


def link_of(plan: Plan) -> ManifestLink:
    """What the child of a plan is of its parent."""
    parent, slice_ = plan.parent, plan.slice
    return ManifestLink(
        parent=ManifestParent(
            name=parent.name, revision=parent.revision, fingerprint=parent.fingerprint
        ),
        slice=ManifestSlice(name=slice_.name, widths=slice_.widths, skipped=slice_.skipped),
        filled=filled_in(plan),
    )


def filled_in(plan: Plan) -> ManifestFilled | None:
    """What a plan fills in; None for nothing."""
    filling = plan.filling
    if not filling:
        return None
    return ManifestFilled(
        config=filling.config,
        kv_layers=filling.kv_layers,
        kv_from=_name_of(filling.kv_from) if filling.kv_from else None,
    )


def _name_of(parent: Parent) -> str:
    return f"{parent.name}@{parent.revision}" if parent.revision else parent.name


def ancestors_of(plan: Plan, link: ManifestLink) -> tuple[ManifestLink, ...]:
    """What the child of a plan is of the checkpoints that its parent is a slice of.

    Args:
        plan: The plan.
        link: What its child is of the parent.

    Returns:
        The nearest first; empty where the parent has no manifest, or one that is not of it any
        more. Whether its weights still are those of that slice is for `verify` to find out.
    """
    above = _manifest_of(plan.parent)
    if above is None:
        return ()
    return tuple(_composed(one, link) for one in (above.link, *above.ancestors))


def _manifest_of(parent: Parent) -> Manifest | None:
    if parent.folder is None:
        return None
    try:
        manifest = read_manifest(parent.folder)
    except InputError:
        return None
    if manifest is None or manifest.slice.widths != parent.text.intermediate_size:
        return None
    return manifest


def _composed(above: ManifestLink, below: ManifestLink) -> ManifestLink:
    """What a slice (`below`) of a slice (`above`) is of the latter's parent."""
    kept = above.to_slice().kept(len(above.slice.widths) + len(above.slice.skipped))
    chosen = below.to_slice().kept(len(kept))
    still = {kept[layer] for layer in chosen}
    layers = range(len(above.slice.widths) + len(above.slice.skipped))
    return ManifestLink(
        parent=above.parent,
        slice=ManifestSlice(
            name=f"{below.slice.name} of {above.slice.name}",
            widths=below.slice.widths,
            skipped=tuple(layer for layer in layers if layer not in still),
        ),
        filled=_both(above.filled, below.filled, chosen),
    )


def _both(
    above: ManifestFilled | None, below: ManifestFilled | None, chosen: tuple[int, ...]
) -> ManifestFilled | None:
    """All that was filled in; `chosen` are the layers of `above` that are in `below`."""
    if above is None:
        return below
    first, then = above, below or ManifestFilled()
    of_first = [index for index, layer in enumerate(chosen) if layer in first.kv_layers]
    return ManifestFilled(
        config=tuple(dict.fromkeys((*first.config, *then.config))),
        kv_layers=tuple(sorted({*of_first, *then.kv_layers})),
        kv_from=first.kv_from or then.kv_from,
    )


def gaps_filled(filled: ManifestFilled | None) -> frozenset[Gap]:
    """Which gaps were filled in, according to a manifest."""
    if filled is None:
        return frozenset()
    config = set(filled.config)
    gaps = {
        Gap.KV: bool(filled.kv_layers),
        Gap.LAYER_TYPES: Gap.LAYER_TYPES in config,
        Gap.ROPE: bool(config - {Gap.LAYER_TYPES}),
    }
    return frozenset(gap for gap, there in gaps.items() if there)

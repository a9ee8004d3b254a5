"""Which slice a checkpoint without a manifest is, by its weights or by its shape.

transformers saves no manifest. Tuning with an adapter leaves most small tensors as they were, and
saving again leaves all of them: whose layers they are can be read off them, byte by byte.
"""

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.untrusted import open_regular, read_exactly
from matformer_lab.gemma3n import TEXT_ONLY_PREFIX, TextConfig, is_multimodal, split_layer
from matformer_lab.parent.folder import read_layout
from matformer_lab.parent.parent import Parent
from matformer_lab.parent.weights.headers import TensorInfo
from matformer_lab.parent.weights.spelling import FULL_PREFIX
from matformer_lab.slicing.e4b import slice_like
from matformer_lab.slicing.layer_runs import written_layers
from matformer_lab.slicing.notation.catalog import published_specs
from matformer_lab.slicing.slice import Slice

_SMALL: Final = 1 << 16
"""Bytes. Norms and AltUp's coefficients are smaller in every Gemma 3n, and that will do."""


def recognised(
    folder: Path, config: Mapping[str, Any], text: TextConfig, parent: Parent
) -> Slice | None:
    """The slice of `parent` that a checkpoint looks like.

    Args:
        folder: The checkpoint.
        config: Its config.json.
        text: The text part of that, checked.
        parent: What it was cut from.

    Returns:
        With the name of the published slice that it is, or else a description; None if layers were
        skipped and it cannot be told which.
    """
    published = _published(text, parent)
    layers = parent.text.num_hidden_layers
    if text.num_hidden_layers == layers:
        skipped: tuple[int, ...] | None = ()
    else:
        skipped = _skipped(folder, config, text, parent)
    for one in published:
        if skipped in (None, one.skipped):
            return one
    if skipped is None:
        return None
    return Slice(_described(text, parent, skipped), text.intermediate_size, skipped)


def _described(text: TextConfig, parent: Parent, skipped: tuple[int, ...]) -> str:
    """A slice in words, e.g. `1/2 without layers 20-24`."""
    full = [w for n, w in enumerate(parent.text.intermediate_size) if n not in skipped]
    shares = {Fraction(w, of) for w, of in zip(text.intermediate_size, full, strict=True)}
    name = str(shares.pop()) if len(shares) == 1 else "of mixed widths"
    name = "full" if name == "1" else name
    return f"{name} without layers {written_layers(skipped)}" if skipped else name


def _published(text: TextConfig, parent: Parent) -> list[Slice]:
    """The published slices of a parent that have this shape."""
    found: list[Slice] = []
    if slice_like(parent.text, published_specs()) != "e4b":
        return found
    for spec in published_specs():
        one = spec.resolve(parent.text)
        kept = one.kept(parent.text.num_hidden_layers)
        shared = sum(layer >= parent.text.first_kv_shared_layer for layer in kept)
        if (one.widths, tuple(parent.text.layer_types[n] for n in kept), shared) == (
            text.intermediate_size,
            text.layer_types,
            text.num_kv_shared_layers,
        ):
            found.append(one)
    return found


def _skipped(
    folder: Path, config: Mapping[str, Any], text: TextConfig, parent: Parent
) -> tuple[int, ...] | None:
    """The skipped layers, by small tensors that are as they were in the parent."""
    if parent.folder is None:
        return None
    prefix = FULL_PREFIX if is_multimodal(config) else TEXT_ONLY_PREFIX
    try:
        mine = _small_tensors(folder, read_layout(folder), prefix)
    except InputError:
        return None
    theirs = _small_tensors(parent.folder, parent.tensors, parent.prefix)
    counts = Counter(theirs.values())
    of = {digest: layer for (layer, _), digest in theirs.items() if counts[digest] == 1}
    votes: dict[int, Counter[int]] = {}
    for (layer, _), digest in mine.items():
        if digest in of:
            votes.setdefault(layer, Counter())[of[digest]] += 1
    if set(votes) != set(range(text.num_hidden_layers)):
        return None
    kept = [votes[layer].most_common(1)[0][0] for layer in sorted(votes)]
    if kept != sorted(set(kept)):
        return None
    return tuple(n for n in range(parent.text.num_hidden_layers) if n not in kept)


def _small_tensors(
    folder: Path, tensors: Mapping[str, TensorInfo], prefix: str
) -> dict[tuple[int, str], str]:
    """Digests of the small tensors of layers, by layer and by name within the layer.

    The name is a part of the digest, as two tensors of a layer may be alike.
    """
    found = {}
    for name, info in tensors.items():
        layer, rest = split_layer(name.removeprefix(prefix))
        if layer is None or info.nbytes > _SMALL:
            continue
        data = bytearray(info.nbytes)
        path = folder / info.file
        with open_regular(path) as file:
            read_exactly(file, memoryview(data), info.offset, path)
        found[layer, rest] = blake3(f"{rest} {info.dtype}\n".encode() + bytes(data)).hexdigest()
    return found

"""Tensor names as other tools write them, read as the published ones.

Published checkpoints name the text tensors `model.language_model.*` (full) or `model.*`
(text-only). transformers loads a checkpoint of another spelling too, with random weights in place
of every tensor that it does not find. So the spellings below are read as what they mean, slices are
written in the published one, and any other is refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import EMBED_TOKENS_PER_LAYER, LM_HEAD, TEXT_ONLY_PREFIX

FULL_PREFIX: Final = "model.language_model."
"""The prefix of the text tensors' names in a full checkpoint."""

_WRAPPERS: Final = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
"""torch.compile, FSDP, activation checkpointing and Lightning's Fabric name what they wrap so."""

_AROUND: Final = ("module.", "base_model.model.")
"""DistributedDataParallel and PEFT put a name around the whole model."""

_FULL: Final = {
    FULL_PREFIX: "published",
    "language_model.model.": "mlx-vlm",
    "language_model.": "a bare Gemma3nModel",
}
_TEXT_ONLY: Final = {
    TEXT_ONLY_PREFIX: "published",
    "": "a bare Gemma3nTextModel",
    FULL_PREFIX: "the text part of a full checkpoint",
    "language_model.model.": "mlx-vlm",
}
"""The prefixes that are understood, and who writes them."""

_BESIDE_TEXT: Final = ("vision_tower.", "audio_tower.", "embed_vision.", "embed_audio.")
"""Roots that are `model.*` in a published full checkpoint."""


@dataclass(frozen=True)
class Spelling:
    """How a checkpoint spells the names of its tensors.

    Attributes:
        prefix: What precedes the published names of its text tensors.
        published: The published name of each tensor, by its name in the files.
        note: A line for the user; None if the checkpoint has the published names.
    """

    prefix: str
    published: Mapping[str, str]
    note: str | None


def spelling_of(names: Iterable[str], *, full: bool, where: str) -> Spelling:
    """Find out how a checkpoint spells its names, by that of `embed_tokens_per_layer.weight`.

    Args:
        names: Of all its tensors.
        full: Whether its config is of the full form, with towers.
        where: Names the checkpoint in an error.

    Raises:
        InputError: There is no such tensor, or more than one, or the spelling is not known.
    """
    plain = {name: _unwrapped(name) for name in names}
    suffix = EMBED_TOKENS_PER_LAYER
    found = {
        n.removesuffix(suffix) for n in plain.values() if n == suffix or n.endswith("." + suffix)
    }
    if len(found) != 1:
        raise InputError(
            f"{where}: {len(found)} tensors named *{suffix}, expected one; "
            "this is not a Gemma 3n checkpoint"
        )
    (prefix,) = found
    known = _FULL if full else _TEXT_ONLY
    expected = FULL_PREFIX if full else TEXT_ONLY_PREFIX
    if prefix not in known:
        form = "a full gemma3n" if full else "a gemma3n_text"
        named = f"named {prefix}*" if prefix else f"named without a prefix ({suffix})"
        raise InputError(
            f"{where}: its text tensors are {named}, but {form} checkpoint has {expected}*; "
            "transformers would load random weights, so rename the tensors"
        )
    published = {name: _published(n, prefix, expected) for name, n in plain.items()}
    if len(set(published.values())) < len(published):
        first: dict[str, str] = {}
        one, other = next(
            (first[new], name)
            for name, new in published.items()
            if first.setdefault(new, name) != name
        )
        raise InputError(f"{where}: {one} and {other} are two names of one tensor; remove one")
    changed = next((name for name, new in published.items() if name != new), None)
    note = None
    if changed is not None:
        note = (
            f"{where}: tensor names are not the published ones ({changed}); they are read and "
            f"written as {published[changed]}"
        )
    return Spelling(expected, published, note)


def _unwrapped(name: str) -> str:
    name = _WRAPPERS.sub("", name)
    while around := next((a for a in _AROUND if name.startswith(a)), None):
        name = name.removeprefix(around)
    return name


def _published(name: str, prefix: str, expected: str) -> str:
    if name.removeprefix("model.").removeprefix("language_model.") == LM_HEAD:
        return LM_HEAD
    if name.startswith(prefix):
        return expected + name.removeprefix(prefix)
    beside = name.removeprefix("model.")
    if not beside.startswith(_BESIDE_TEXT):
        return name
    # In a text-only checkpoint `model.` is the text model's, and towers have no place.
    return f"model.{beside}" if expected == FULL_PREFIX else beside

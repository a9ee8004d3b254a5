"""What a slice has that its parent lacks: what runtimes want and transformers 5 does not save.

No right runtime reads the K/V of layers that share K/V, and the two rope numbers stand in
`rope_parameters`, so filling them in changes no logits. Some runtimes load nothing without them.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import (
    KV_TENSORS,
    layer_tensor,
    rope_numbers,
    text_part,
)
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.layer_runs import written_layers


class Gap(StrEnum):
    """What a parent may lack and a slice fills in."""

    ROPE = "rope"
    """`rope_theta` and `rope_local_base_freq`, from `rope_parameters`."""
    KV = "kv"
    """The K/V tensors of layers that share K/V."""
    LAYER_TYPES = "layer_types"
    """`layer_types`, where they are transformers' default."""


_SAME: Final = (
    *("num_hidden_layers", "num_kv_shared_layers", "layer_types"),
    *("hidden_size", "num_key_value_heads", "head_dim"),
)
"""What two checkpoints have alike if the K/V of one fit into the other."""

EVERY_GAP: Final = frozenset(Gap)


@dataclass(frozen=True)
class Filling:
    """What was filled in, in one child.

    Attributes:
        asked: What was to be filled in, wherever the parent lacks it.
        config: The keys of the text config that were.
        kv_layers: The child's layers whose K/V were.
        kv_tensors: The full names of these tensors in the child.
        kv_from: The checkpoint that these are from; None: they are copies of the K/V that the
            layers share.
    """

    asked: frozenset[Gap] = EVERY_GAP
    config: tuple[str, ...] = ()
    kv_layers: tuple[int, ...] = ()
    kv_tensors: tuple[str, ...] = field(default=(), repr=False)
    kv_from: Parent | None = field(default=None, repr=False, compare=False)

    def __bool__(self) -> bool:
        """Whether anything was filled in."""
        return bool(self.config or self.kv_layers)

    def __str__(self) -> str:
        """What was filled in, as a part of a sentence; empty if nothing was."""
        said = []
        if rope := [key for key in self.config if key != Gap.LAYER_TYPES]:
            said.append(f"{' and '.join(rope)} (from rope_parameters)")
        if Gap.LAYER_TYPES in self.config:
            said.append("layer_types (the default)")
        if self.kv_layers:
            origin = "copies of those they share"
            if self.kv_from is not None:
                origin = f"from {self.kv_from.ref}"
            said.append(f"K/V of layers {written_layers(self.kv_layers)} ({origin})")
        return ", ".join(said)

    def as_json(self) -> dict[str, Any]:
        """For programs: keys of the config, layers, and the checkpoint that these are from."""
        return {
            "config": list(self.config),
            "kv_layers": list(self.kv_layers),
            "kv_from": self.kv_from.ref if self.kv_from else None,
        }


class MissingKV(NamedTuple):
    """A K/V tensor that a parent lacks.

    Attributes:
        layer: Its layer in the parent.
        rest: Its name within the layer.
        shared: The layer whose K/V are read in its place.
    """

    layer: int
    rest: str
    shared: int


def missing_kv(parent: Parent) -> Iterator[MissingKV]:
    """The K/V tensors of layers that share K/V, as far as a parent lacks them."""
    text = parent.text
    for layer in range(text.first_kv_shared_layer, text.num_hidden_layers):
        shared = text.kv_source(layer)
        for rest in KV_TENSORS:
            there = parent.prefix + layer_tensor(layer, rest) in parent.tensors
            if not there and shared is not None:
                yield MissingKV(layer, rest, shared)


def config_filling(parent: Parent, asked: Collection[Gap]) -> dict[str, Any]:
    """The keys of the text config that a parent lacks and its children get, with their values.

    The value of `layer_types` is the parent's own; a child has those of its layers.
    """
    written = text_part(parent.config)
    filled = rope_numbers(written) if Gap.ROPE in asked else {}
    if written.get("layer_types") is None and Gap.LAYER_TYPES in asked:
        filled["layer_types"] = list(parent.text.layer_types)
    return filled


def check_kv_source(parent: Parent, kv_from: Parent) -> None:
    """Raise `InputError` unless a checkpoint has the K/V tensors that a parent lacks.

    Args:
        parent: What is sliced.
        kv_from: The checkpoint to take them from: the one that `parent` was tuned from.
    """
    mine, theirs = parent.text, kv_from.text
    for key in _SAME:
        if getattr(mine, key) != getattr(theirs, key):
            raise InputError(
                f"`kv_from` {kv_from.ref}: its {key} is not that of {parent.ref}; give the "
                "checkpoint that it was tuned from, or leave `kv_from` out"
            )
    for one in missing_kv(parent):
        name = kv_from.prefix + layer_tensor(one.layer, one.rest)
        if name not in kv_from.tensors:
            raise InputError(
                f"`kv_from` {kv_from.ref}: has no {name} either; give one that has, or leave "
                "`kv_from` out"
            )

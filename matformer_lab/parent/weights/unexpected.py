"""Tensors that a slice could not hold rightly: adapters, and unknown ones in a cut.

A slice copies what no rule knows as it is. That is right for a tower and wrong for a tensor that
belongs to an FFN's hidden units: beside an FFN that was cut it has the wrong size.
"""

import re
from collections.abc import Mapping
from typing import Final

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import LM_HEAD, TextConfig, is_known, split_layer
from matformer_lab.parent.weights.headers import TensorInfo

_ADAPTER: Final = re.compile(
    r"(^|\.)(lora|lora_\w+|base_layer|(\w+_)?adapters?(_\w+)?|modules_to_save|original_module|"
    r"ia3_l|vera_(A|B|lambda_\w)|hada_\w+|lokr_\w+|oft_\w+|boft_\w+|fourierft_\w+|hra_\w+|delta_\w+|"
    r"(pi|co|mi)ssa_\w+|vblora_\w+|randlora_\w+|ln_tuning_\w+|road_\w+|reft(_\w+)?|"
    r"prompt_(encoder|embeddings)|loreft\w*)(\.|$)",
    re.ASCII,
)
"""Parts of names that PEFT and its kin give to what they add to a model."""

TOWERS: Final = frozenset({"vision_tower", "audio_tower", "embed_vision", "embed_audio"})
"""Modules that belong to pictures and sound: carried as they are."""

_KERNELS: Final = (3, 5, 7)


def check_merged(tensors: Mapping[str, TensorInfo], where: str) -> None:
    """Raise `InputError` if some tensors are an adapter's, which nobody would apply.

    Args:
        tensors: By the names in their files.
        where: Names the checkpoint in the error.
    """
    adapters = [name for name in tensors if _ADAPTER.search(name)]
    if adapters:
        raise InputError(
            f"{where}: holds an adapter that is not merged ({adapters[0]} is one of "
            f"{len(adapters)} such tensors); merge it first (PEFT: merge_and_unload), then save "
            "the model"
        )


def check_unexpected(
    tensors: Mapping[str, TensorInfo], prefix: str, text: TextConfig, where: str
) -> None:
    """Raise `InputError` if a text tensor that nobody knows is shaped like a cut.

    Args:
        tensors: By their published names.
        prefix: Of the text tensors.
        text: The config.
        where: Names the checkpoint in the error.
    """
    names = [name for name in tensors if name.startswith(prefix)]
    for name in names:
        bare = name.removeprefix(prefix)
        if not is_known(bare) and (axis := _cut_axis(bare, tensors[name].shape, text)):
            raise InputError(
                f"{where}: tensor {name} {list(tensors[name].shape)} is not one of Gemma 3n's, but "
                f"has the size of {axis}, so a slice would have to cut it and no rule says how; "
                "remove it, or merge it into the weights"
            )


def beside_the_model(
    tensors: Mapping[str, TensorInfo], prefix: str, text: TextConfig
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tensors that neither the text model nor a tower has.

    Args:
        tensors: By their published names.
        prefix: Of the text tensors.
        text: The config.

    Returns:
        Those of layers past the config's last one, which slices leave out; and all others. Of these
        slices carry those under `prefix`; full slices carry the rest too.
    """
    past, others = [], []
    for name in tensors:
        bare = name.removeprefix(prefix)
        layer, _ = split_layer(bare)
        if name.startswith(prefix) and layer is not None and layer >= text.num_hidden_layers:
            past.append(name)
        elif not (
            name == LM_HEAD
            or (name.startswith(prefix) and is_known(bare))
            or not TOWERS.isdisjoint(name.split(".")[:2])
        ):
            others.append(name)
    return tuple(past), tuple(others)


def _cut_axis(bare: str, shape: tuple[int, ...], text: TextConfig) -> str | None:
    """What an unknown text tensor's shape follows, if a slice cuts that."""
    layer, _ = split_layer(bare)
    if layer is not None and layer < text.num_hidden_layers:
        width = text.intermediate_size[layer]
        # Also two matrices in one, as gate and up are fused.
        return "its layer's FFN" if any(size in (width, 2 * width) for size in shape) else None
    every_layer = text.num_hidden_layers * text.hidden_size_per_layer_input
    if text.num_hidden_layers in shape or every_layer in shape:
        return "all layers together"
    return None


def channels_last(tensors: Mapping[str, TensorInfo]) -> str | None:
    """A convolution of a tower that has its channels last, as MLX converts them; None if none has.

    In a published checkpoint a kernel is [out, in, height, width].
    """
    for name, info in tensors.items():
        if len(info.shape) == 4 and not TOWERS.isdisjoint(name.split(".")):
            _, height, width, channels = info.shape
            if height == width in _KERNELS and channels != width:
                return name
    return None

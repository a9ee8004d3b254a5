"""Tensors that a slice could not hold rightly: quantised ones, adapters, and unknown ones in a cut.

A slice copies what no rule knows as it is. That is right for a tower and wrong for a tensor that
belongs to an FFN's hidden units: beside an FFN that was cut it has the wrong size.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import LM_HEAD, TextConfig, is_known, split_layer, text_part
from matformer_lab.parent.headers import TensorInfo

_ADAPTER: Final = re.compile(
    r"(^|\.)(lora|lora_\w+|base_layer|(\w+_)?adapters?(_\w+)?|modules_to_save|original_module|"
    r"ia3_l|vera_(A|B|lambda_\w)|hada_\w+|lokr_\w+|oft_\w+|boft_\w+|fourierft_\w+|hra_\w+|delta_\w+|"
    r"(pi|co|mi)ssa_\w+|vblora_\w+|randlora_\w+|ln_tuning_\w+|road_\w+|reft(_\w+)?|"
    r"prompt_(encoder|embeddings)|loreft\w*)(\.|$)",
    re.ASCII,
)
"""Parts of names that PEFT and its kin give to what they add to a model."""

_QUANTISED: Final = (
    (re.compile(r"\.(absmax|quant_map|nested_absmax|quant_state\.\w+|SCB)$"), "bitsandbytes"),
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
    (re.compile(r"\.(weight_scale(_inv)?|input_scale|weight_packed|weight_zero_point)$"), "fp8"),
    (re.compile(r":_data$|:_scale$|weight_qdata$|\.weight:"), "torchao"),
)
"""Names of what quantisation puts beside, or in place of, a weight."""

_TOWERS: Final = frozenset({"vision_tower", "audio_tower", "embed_vision", "embed_audio"})
_KERNELS: Final = (3, 5, 7)
_FLOATS: Final = ("BF16", "F16", "F32", "F64")


def check_unquantised(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], where: str
) -> None:
    """Raise `InputError` if a checkpoint's weights are quantised.

    Args:
        config: The config.json.
        tensors: By the names in their files.
        where: Names the checkpoint in the error.
    """
    how = how_quantised(config, tensors)
    if how is not None:
        raise InputError(
            f"{where}: is quantised ({how}); slice the bf16 original, then quantise the slice"
        )


def how_quantised(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> str | None:
    """By whom a checkpoint's weights are quantised, and one of them; None if they are not.

    Args:
        config: The config.json. That alone does not count: one may be left over, or be for towers.
        tensors: By the names in their files.
    """
    found = next(_quantised(tensors), None)
    if found is None:
        return None
    name, kind = found
    return f"{_method(config) or kind}; {name} is {tensors[name].dtype}"


def _quantised(tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[str, str]]:
    """The names of quantised text tensors, and who quantises so."""
    for name, info in tensors.items():
        if not _TOWERS.isdisjoint(name.split(".")):
            continue  # carried as they are, whatever they are
        for pattern, kind in _QUANTISED:
            if pattern.search(name):
                yield name, kind
        stem = name.removesuffix(".weight")
        if stem != name and info.dtype not in _FLOATS and len(info.shape) == 2:
            yield name, "MLX" if f"{stem}.scales" in tensors else info.dtype


QUANTIZATION_KEYS: Final = ("quantization_config", "quantization")
"""Keys of a config that tell a runtime how to read quantised weights; the second is MLX's."""


def says_quantised(config: Mapping[str, Any]) -> bool:
    """Whether a config.json has settings of quantisation, at its top or in its text part."""
    parts = (config, text_part(config))
    return any(part.get(key) for part in parts for key in QUANTIZATION_KEYS)


def has_quantised_towers(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether some tensor of a tower is quantised, so that the config's settings are for it."""
    return any(
        not _TOWERS.isdisjoint(name.split("."))
        and (
            any(pattern.search(name) for pattern, _ in _QUANTISED)
            or (name.endswith(".weight") and info.dtype not in _FLOATS and len(info.shape) >= 2)
        )
        for name, info in tensors.items()
    )


def _method(config: Mapping[str, Any]) -> str | None:
    """What a config says about how the weights were quantised."""
    for part in (config, text_part(config)):
        settings = next((part[key] for key in QUANTIZATION_KEYS if part.get(key)), None)
        if not isinstance(settings, Mapping):
            continue
        method = settings.get("quant_method")
        bits = settings.get("bits")
        if settings.get("load_in_4bit") is True:
            bits = settings.get("bnb_4bit_quant_type", 4)
        elif settings.get("load_in_8bit") is True:
            bits = "int8"
        mlx = "MLX" if method is None and "group_size" in settings else None
        words = [str(method or mlx or "quantization_config")]
        if bits is not None:
            words.append(f"{bits}-bit" if isinstance(bits, int) else str(bits))
        return " ".join(words)[:60]
    return None


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
        Those of layers past the config's last one, which slices leave out; and all others, which
        slices carry along.
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
            or not _TOWERS.isdisjoint(name.split(".")[:2])
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
        if len(info.shape) == 4 and not _TOWERS.isdisjoint(name.split(".")):
            _, height, width, channels = info.shape
            if height == width in _KERNELS and channels != width:
                return name
    return None

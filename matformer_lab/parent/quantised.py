"""Checkpoints whose weights are quantised: told apart, and described. They cannot be cut.

The names below were seen in checkpoints that transformers 5.23 saved with torchao 0.18 and
bitsandbytes 0.50, or are those of the formats' own descriptions.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import LEAVE_ALONE, TextConfig, is_multimodal, text_part
from matformer_lab.parent.weights.headers import TensorInfo
from matformer_lab.parent.weights.spelling import Spelling, spelling_of
from matformer_lab.parent.weights.unexpected import TOWERS

_QUANTISED: Final = (
    (re.compile(r"\.(absmax|quant_map|nested_absmax|quant_state\.\w+|SCB)$"), "bitsandbytes"),
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
    (re.compile(r"\.(weight_scale(_inv)?|input_scale|weight_packed|weight_zero_point)$"), "fp8"),
    (re.compile(r":_data$|:_scale$|weight_qdata$|\.weight:"), "torchao"),
)
"""Names of what quantisation puts beside, or in place of, a weight."""

_PART: Final = re.compile(
    r"\._weight_\w+$|\.weight:\w+$|\.weight\.[\w.]+$|"
    r"\.(SCB|scales|biases|qweight|qzeros|g_idx|input_scale|weight_\w+)$"
)
"""What a weight `NAME.weight` is stored in, after `NAME`."""

_FLOATS: Final = ("BF16", "F16", "F32", "F64")

QUANTIZATION_KEYS: Final = ("quantization_config", "quantization")
"""Keys of a config that tell a runtime how to read quantised weights; the second is MLX's."""


@dataclass(frozen=True)
class QuantisedCheckpoint:
    """A Gemma 3n checkpoint with quantised weights, as far as its config and headers say.

    Attributes:
        ref: As the caller gave it.
        name: For people.
        config: The config.json, as written.
        text: The text part of the config, checked.
        tensors: Where each tensor lies, by the name in its file.
        how: By whom it is quantised, e.g. `bitsandbytes nf4`.
        example: One of the quantised tensors.
        folder: Its folder; None for a Hub repository of which only headers were read.
    """

    ref: str
    name: str
    config: Mapping[str, Any] = field(repr=False)
    text: TextConfig = field(repr=False)
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    how: str
    example: str
    folder: Path | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    @cached_property
    def weights(self) -> Mapping[str, bool]:
        """Every weight by the name that it had, and whether it is quantised."""
        packed = {_weight_of(name) for name, _ in _quantised(self.tensors)}
        return {name: name in packed for name in map(_weight_of, self.tensors)}

    @cached_property
    def spelling(self) -> Spelling:
        """How the weights' names are spelled.

        Raises:
            InputError: In no known way.
        """
        return spelling_of(self.weights, full=is_multimodal(self.config), where=self.ref)

    @cached_property
    def should_not_be(self) -> tuple[str, ...]:
        """The modules of `LEAVE_ALONE` of which a weight is quantised, by their short names."""
        bare = [pattern.removeprefix(r".*").removeprefix(r"\.") for pattern in LEAVE_ALONE]
        parts = {
            part for name, packed in self.weights.items() if packed for part in name.split(".")
        }
        return tuple(name for name in bare if name in parts)


class QuantisedError(InputError):
    """A quantised checkpoint where weights are wanted that can be cut.

    Attributes:
        checkpoint: What it is.
    """

    def __init__(self, checkpoint: QuantisedCheckpoint) -> None:
        dtype = checkpoint.tensors[checkpoint.example].dtype
        super().__init__(
            f"{checkpoint.ref}: is quantised ({checkpoint.how}; {checkpoint.example} is {dtype}); "
            "slice the bf16 original, then quantise the slice"
        )
        self.checkpoint = checkpoint


def how_quantised(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> str | None:
    """By whom a checkpoint's weights are quantised, and one of them; None if they are not.

    Args:
        config: The config.json. That alone does not count: one may be left over, or be for towers.
        tensors: By the names in their files.
    """
    found = first_quantised(config, tensors)
    return None if found is None else f"{found[0]}; {found[1]} is {tensors[found[1]].dtype}"


def first_quantised(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> tuple[str, str] | None:
    """As `how_quantised`, in two parts: by whom, and the name of a quantised tensor."""
    # A slice carries towers unchanged, so that theirs may be quantised.
    found = next((one for one in _quantised(tensors) if not _is_of_tower(one[0])), None)
    if found is None:
        return None
    name, kind = found
    return _method(config) or kind, name


def _quantised(tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[str, str]]:
    """The names of quantised tensors, of the text model and of towers, and who quantises so."""
    for name, info in tensors.items():
        if (kind := _added_by(name)) is not None:
            yield name, kind
        stem = name.removesuffix(".weight")
        if stem != name and info.dtype not in _FLOATS and len(info.shape) >= 2:
            yield name, "MLX" if f"{stem}.scales" in tensors else info.dtype


def says_quantised(config: Mapping[str, Any]) -> bool:
    """Whether a config.json has settings of quantisation, at its top or in its text part."""
    parts = (config, text_part(config))
    return any(part.get(key) for part in parts for key in QUANTIZATION_KEYS)


def has_quantised_towers(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether some tensor of a tower is quantised, so that the config's settings are for it."""
    return any(_is_of_tower(name) for name, _ in _quantised(tensors))


def _is_of_tower(name: str) -> bool:
    return not TOWERS.isdisjoint(name.split("."))


def _added_by(name: str) -> str | None:
    """Who puts a tensor of this name beside, or in place of, a weight."""
    return next((kind for pattern, kind in _QUANTISED if pattern.search(name)), None)


def _weight_of(name: str) -> str:
    """The name that the weight had which a tensor is, or is a part of."""
    return _PART.sub(".weight", name)


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
        elif (kind := _torchao_kind(settings.get("quant_type"))) is not None:
            words.append(kind)
        return " ".join(words)[:60]
    return None


def _torchao_kind(quant_type: object) -> str | None:
    """The class of torchao's config, e.g. `Int8WeightOnlyConfig`, as transformers 5 writes it."""
    default = quant_type.get("default") if isinstance(quant_type, Mapping) else None
    kind = default.get("_type") if isinstance(default, Mapping) else None
    return kind if isinstance(kind, str) else None

"""A slice: the FFN width of every kept layer, and the skipped layers.

`SliceSpec` is what a person writes, relative to a parent that is not known yet; `Slice` is the same
checked against a parent, in hidden units.
"""

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import TextConfig

MAX_LAYERS: Final = 1024
_FRACTION = re.compile(r"([0-9]{1,9})\s*/\s*([0-9]{1,9})")
_MULTIPLE = re.compile(r"([0-9]{1,6})x")
_RUN = re.compile(r"([0-9]{1,4})(?:\s*-\s*([0-9]{1,4}))?")


@dataclass(frozen=True)
class Width:
    """An FFN width as written: hidden units, a fraction of the parent's FFN, or n x hidden_size."""

    value: Fraction
    unit: Literal["units", "ffn", "hidden"]

    @classmethod
    def parse(cls, written: Any) -> "Width":
        """`8192`, `1/2`, `full` or `4x`. Raises ValueError."""
        if isinstance(written, Width):
            return written
        if type(written) is int:
            return cls(Fraction(written), "units")
        if isinstance(written, str):
            text = written.strip()
            if text == "full":
                return cls(Fraction(1), "ffn")
            if (match := _FRACTION.fullmatch(text)) and int(match[2]):
                return cls(Fraction(int(match[1]), int(match[2])), "ffn")
            if match := _MULTIPLE.fullmatch(text):
                return cls(Fraction(int(match[1])), "hidden")
        if isinstance(written, float):
            raise ValueError(
                f"width {written} is not an integer; write hidden units (8192) or a fraction (1/2)"
            )
        raise ValueError(
            f"width {written!r} is neither hidden units (8192), a fraction of the parent's FFN "
            "(1/2, full) nor a multiple of hidden_size (4x)"
        )

    def __str__(self) -> str:
        if self.unit == "hidden":
            return f"{self.value}x"
        if self.unit == "ffn":
            return "full" if self.value == 1 else str(self.value)
        return str(self.value)

    def units(self, layer: int, text: TextConfig) -> int:
        """Hidden units at `layer` of the parent. Raises `InputError` naming the layer."""
        full = text.intermediate_size[layer]
        scale = {"units": 1, "ffn": full, "hidden": text.hidden_size}[self.unit]
        width = self.value * scale
        if width.denominator != 1:
            raise InputError(
                f"layer {layer}: width {self} of the parent's {full} is {float(width):g}, "
                "not an integer"
            )
        if width < 1:
            raise InputError(f"layer {layer}: width is {width}; use 1 to {full}, or skip the layer")
        if width > full:
            raise InputError(f"layer {layer}: width {width} is over the parent's {full}")
        return int(width)


def parse_run(written: Any) -> range:
    """Layers as written: `4` or `20-24` (both ends included). Raises ValueError."""
    if type(written) is int and 0 <= written < MAX_LAYERS:
        return range(written, written + 1)
    match = _RUN.fullmatch(written.strip()) if isinstance(written, str) else None
    if not match:
        raise ValueError(f"{written!r} is not a layer (4) or a run of layers (20-24)")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first or last >= MAX_LAYERS:
        raise ValueError(f"{written!r} is not a run of layers")
    return range(first, last + 1)


def _parse_widths(written: Any) -> Any:
    if isinstance(written, list | tuple):
        return tuple(Width.parse(width) for width in written)
    if isinstance(written, dict):
        runs: dict[int, Width] = {}
        for key, width in written.items():
            for layer in parse_run(key):
                if layer in runs:
                    raise ValueError(f"layer {layer} is given two widths")
                runs[layer] = Width.parse(width)
        return runs
    return Width.parse(written)


def _parse_skip(written: Any) -> Any:
    if isinstance(written, list | tuple):
        return tuple(layer for item in written for layer in parse_run(item))
    return tuple(parse_run(written)) if written is not None else ()


_WIDTH_SCHEMA: Final = {
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}],
    "description": "hidden units (8192), a fraction of the parent's FFN (1/2, full), or a multiple "
    "of hidden_size (4x)",
}
_RUN_SCHEMA: Final = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}],
    "description": "a layer of the parent (4) or a run of layers, both ends included (20-24)",
}
_SKIP_SCHEMA: Final = {"anyOf": [*_RUN_SCHEMA["anyOf"], {"type": "array", "items": _RUN_SCHEMA}]}

AnyWidths = Annotated[
    Width | tuple[Width, ...] | dict[int, Width],
    BeforeValidator(_parse_widths),
    WithJsonSchema(
        {
            "anyOf": [
                _WIDTH_SCHEMA,
                {"type": "array", "items": _WIDTH_SCHEMA},
                {"type": "object", "additionalProperties": _WIDTH_SCHEMA},
            ],
            "description": "one width for every layer, a list with one for each kept layer, or a "
            "mapping from runs of the parent's layers to widths (0-3: 1/2)",
        }
    ),
]
OneWidth = Annotated[Width, BeforeValidator(Width.parse), WithJsonSchema(_WIDTH_SCHEMA)]
Layers = Annotated[tuple[int, ...], BeforeValidator(_parse_skip), WithJsonSchema(_SKIP_SCHEMA)]


class Published(BaseModel):
    """What Google published for a slice: labels, not truth (2.49 is 2.4705 when counted)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: str
    """The row's name in Google's CSV."""
    effective_params_b: float
    """Effective parameters in billions, as labelled."""
    mmlu: float
    """MMLU accuracy of the pre-trained model, percent."""


class SliceSpec(BaseModel):
    """A slice as written: exactly one of `widths` and `blocks`, and the layers to skip.

    `blocks` gives one width for each attention block (4 sliding layers and a full one in E4B).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
    description: str | None = None
    published: Published | None = None
    widths: AnyWidths | None = None
    blocks: tuple[OneWidth, ...] | None = None
    skip: Layers = ()

    @model_validator(mode="after")
    def _exactly_one_way(self) -> Self:
        if (self.widths is None) == (self.blocks is None):
            raise ValueError("give either widths or blocks")
        return self

    def resolve(self, text: TextConfig) -> "Slice":
        """The slice of a parent with config `text`. Raises `InputError` naming the layer."""
        try:
            skipped = check_skip(self.skip, text)
            kept = [n for n in range(text.num_hidden_layers) if n not in skipped]
            widths = tuple(
                width.units(layer, text)
                for layer, width in zip(kept, self._per_kept_layer(kept, text), strict=True)
            )
        except InputError as error:
            raise InputError(f"slice {self.name}: {error}") from None
        return Slice(self.name, widths, skipped, self.published)

    def _per_kept_layer(self, kept: list[int], text: TextConfig) -> list[Width]:
        if self.blocks is not None:
            if len(self.blocks) != len(text.blocks):
                raise InputError(
                    f"{len(self.blocks)} block widths for the parent's {len(text.blocks)} "
                    "attention blocks"
                )
            by_layer = {
                layer: width
                for block, width in zip(text.blocks, self.blocks, strict=True)
                for layer in block
            }
            return [by_layer[layer] for layer in kept]
        widths = self.widths
        if isinstance(widths, Width):
            return [widths] * len(kept)
        if isinstance(widths, Mapping):
            return _widths_of_runs(widths, kept, text.num_hidden_layers)
        assert isinstance(widths, tuple)
        if len(widths) != len(kept):
            skips = text.num_hidden_layers - len(kept)
            raise InputError(
                f"{len(widths)} widths for {len(kept)} kept layers "
                f"({text.num_hidden_layers} layers less {skips} skipped)"
            )
        return list(widths)


def _widths_of_runs(runs: Mapping[int, Width], kept: list[int], layers: int) -> list[Width]:
    for layer in runs:
        if layer >= layers:
            raise InputError(f"layer {layer}: the parent has layers 0 to {layers - 1}")
        if layer not in kept:
            raise InputError(f"layer {layer}: has a width but is skipped")
    for layer in kept:
        if layer not in runs:
            raise InputError(f"layer {layer}: no width given and not skipped")
    return [runs[layer] for layer in kept]


def check_skip(skip: tuple[int, ...], text: TextConfig) -> tuple[int, ...]:
    """The skipped layers, sorted, if a Gemma 3n without them still works."""
    for layer in skip:
        if not 0 <= layer < text.num_hidden_layers:
            raise InputError(
                f"skipped layer {layer}: the parent has layers 0 to {text.num_hidden_layers - 1}"
            )
        if skip.count(layer) > 1:
            raise InputError(f"skipped layer {layer} is listed twice")
    kept = [n for n in range(text.num_hidden_layers) if n not in skip]
    for kind in sorted(set(text.layer_types)):
        if not any(text.layer_types[layer] == kind for layer in kept):
            raise InputError(f"skipping {list(skip)} leaves no {kind} layer")
    if kept[-1] < text.first_kv_shared_layer < text.num_hidden_layers:
        raise InputError(
            f"skipping all of layers {text.first_kv_shared_layer}-{text.num_hidden_layers - 1} "
            "leaves no layer that shares K/V, which runtimes do not load; keep one of them"
        )
    for layer in sorted(text.kv_sources & set(skip)):
        raise InputError(
            f"skipped layer {layer} feeds the shared K/V of layers "
            f"{text.first_kv_shared_layer}-{text.num_hidden_layers - 1} and must stay"
        )
    return tuple(sorted(skip))


@dataclass(frozen=True)
class Slice:
    """A slice checked against its parent.

    `widths`: FFN hidden units of each kept layer, in order. `skipped`: indices of parent layers
    left out, ascending.
    """

    name: str
    widths: tuple[int, ...]
    skipped: tuple[int, ...] = ()
    published: Published | None = field(default=None, compare=False)

    def kept(self, num_hidden_layers: int) -> tuple[int, ...]:
        """Parent indices of the kept layers."""
        return tuple(n for n in range(num_hidden_layers) if n not in self.skipped)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of what the slice is, whatever its name."""
        return hashlib.sha256(f"{self.widths} {self.skipped}".encode()).hexdigest()

    @property
    def slug(self) -> str:
        """The name as a safe and unique file name."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip(".-")
        if slug and slug == self.name:
            return slug
        return f"{slug[:80] or 'slice'}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


class SamplerSpec(BaseModel):
    """`sample` distinct random slices: widths drawn per layer or per block, and one of `skip`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample: Annotated[int, Field(strict=True, ge=1, le=10_000)]
    widths: Annotated[tuple[OneWidth, ...], Field(min_length=1)]
    by: Literal["layer", "block"] = "layer"
    skip: Annotated[tuple[Layers, ...], Field(min_length=1)] = ((),)
    """Skip sets to draw from; `[[], 20-24]` skips layers 20-24 in about half of the slices."""
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    name: Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f]+$")] = "mix"

    def draw(self, text: TextConfig) -> tuple[Slice, ...]:
        """The same slices for the same seed, always. Raises `InputError`."""
        generator = random.Random(self.seed)
        found: dict[str, Slice] = {}
        # A draw that repeats a slice is thrown away; 50 tries for each slice asked for is far more
        # than chance needs unless the choices nearly run out.
        for _ in range(50 * self.sample):
            if len(found) == self.sample:
                break
            skip = generator.choice(self.skip)
            spec = {"name": f"{self.name}-{self.seed}-{len(found):03d}", "skip": list(skip)}
            if self.by == "block":
                spec["blocks"] = [generator.choice(self.widths) for _ in text.blocks]
            else:
                kept = text.num_hidden_layers - len(set(skip))
                spec["widths"] = [generator.choice(self.widths) for _ in range(kept)]
            drawn = SliceSpec.model_validate(spec).resolve(text)
            found.setdefault(drawn.digest, drawn)
        if len(found) < self.sample:
            raise InputError(
                f"sampler {self.name}: only {len(found)} distinct slices found for sample: "
                f"{self.sample}; allow more widths or ask for fewer"
            )
        return tuple(found.values())


def parse_spec(written: Any, where: str) -> SliceSpec | SamplerSpec:
    """A slice or a sampler from a YAML mapping. `where` names the file in an `InputError`."""
    if not isinstance(written, Mapping):
        raise InputError(f"{where}: a slice is a mapping with name and widths, not {written!r:.60}")
    model = SamplerSpec if "sample" in written else SliceSpec
    try:
        return model.model_validate(dict(written))
    except ValidationError as error:
        raise InputError(f"{where}: {explain(error, model)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first complaint of pydantic as `key: what is wrong`, with the nearest known key."""
    from difflib import get_close_matches

    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = get_close_matches(str(first["loc"][-1]), list(model.model_fields), n=1, cutoff=0.0)
        return f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message

"""A slice as a person writes it, for a parent that is not known yet.

`SliceSpec.resolve` checks it against a parent; the result is a `Slice`, with its widths in hidden
units.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import MAX_LAYERS, TextConfig
from matformer_lab.slicing.notation.name import MAX_NAME, VISIBLE
from matformer_lab.slicing.notation.width import WIDTH_SCHEMA, OneWidth, Width
from matformer_lab.slicing.skips import check_skip
from matformer_lab.slicing.slice import Published, Slice

_RUN = re.compile(r"([0-9]{1,4})(?:\s*-\s*([0-9]{1,4}))?")


def parse_run(written: Any) -> range:
    """A layer, or a run of layers, as written.

    Args:
        written: `4` as a number or as text, or `20-24` (both ends included).

    Raises:
        ValueError: `written` is neither, or no parent can have so many layers (`MAX_LAYERS`).

    Examples:
        >>> parse_run("20-24")
        range(20, 25)
    """
    if type(written) is int and 0 <= written < MAX_LAYERS:
        return range(written, written + 1)
    match = _RUN.fullmatch(written.strip()) if isinstance(written, str) else None
    if not match:
        raise ValueError(f"{written!r:.60} is not a layer (4) or a run of layers (20-24)")
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
    if written is None:
        return ()
    layers: dict[int, None] = {}  # in the order written
    for item in written if isinstance(written, list | tuple) else [written]:
        for layer in parse_run(item):
            if layer in layers:
                raise ValueError(f"skipped layer {layer} is listed twice")
            layers[layer] = None
    return tuple(layers)


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
                WIDTH_SCHEMA,
                {"type": "array", "items": WIDTH_SCHEMA},
                {"type": "object", "additionalProperties": WIDTH_SCHEMA},
            ],
            "description": "one width for every layer, a list with one for each kept layer, or a "
            "mapping from runs of the parent's layers to widths (0-3: 1/2)",
        }
    ),
]
Layers = Annotated[tuple[int, ...], BeforeValidator(_parse_skip), WithJsonSchema(_SKIP_SCHEMA)]


# The docstring is the model's description in recipes/recipe.schema.json.
class SliceSpec(BaseModel):
    """A slice as written: exactly one of `widths` and `blocks`, and the layers to skip.

    `blocks` gives one width for each attention block (4 sliding layers and a full one in E4B).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[
        str, Field(min_length=1, max_length=MAX_NAME, pattern=r"^[^\x00-\x1f\x7f]+$"), VISIBLE
    ]
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

    def resolve(self, text: TextConfig) -> Slice:
        """The slice of a parent whose text config is `text`.

        Raises:
            InputError: The slice does not fit the parent. The message names the slice and, if the
                fault is in one, the layer.
        """
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
            raise InputError(f"layer {layer}: has a width, but is skipped")
    for layer in kept:
        if layer not in runs:
            raise InputError(f"layer {layer}: no width given, and not skipped")
    return [runs[layer] for layer in kept]

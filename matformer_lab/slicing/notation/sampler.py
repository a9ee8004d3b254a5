"""Samplers, which draw random slices."""

import math
import random
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import TextConfig
from matformer_lab.slicing.notation.name import VISIBLE
from matformer_lab.slicing.notation.spec import Layers
from matformer_lab.slicing.notation.width import OneWidth
from matformer_lab.slicing.skips import check_skip
from matformer_lab.slicing.slice import Slice


# The docstring is the model's description in recipes/recipe.schema.json.
class SamplerSpec(BaseModel):
    """`sample` distinct random slices: widths drawn per layer or per block, and one of `skip`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample: Annotated[int, Field(strict=True, ge=1, le=10_000)]
    widths: Annotated[tuple[OneWidth, ...], Field(min_length=1)]
    by: Literal["layer", "block"] = "layer"
    skip: Annotated[tuple[Layers, ...], Field(min_length=1)] = ((),)
    """Skip sets to draw from: `[[], 20-24]` skips layers 20-24 in about half of the slices."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    name: Annotated[
        str, Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f]+$"), VISIBLE
    ] = "mix"

    def draw(self, text: TextConfig) -> tuple[Slice, ...]:
        """Draw the slices. The same seed and config always give the same ones.

        Args:
            text: The parent's config.

        Returns:
            `sample` slices, all different, called `mix-0-000` and so on (name, seed, number).

        Raises:
            InputError: A width or a skip set does not fit the parent, or there are too few distinct
                slices.
        """
        try:
            skips = [check_skip(skip, text) for skip in self.skip]
            draws_of = {skip: self._draws(skip, text) for skip in set(skips)}
        except InputError as error:
            raise InputError(f"sampler {self.name}: {error}") from None
        self._check_enough(
            sum(math.prod(len(set(draw)) for draw in draws) for draws in draws_of.values())
        )
        generator = random.Random(self.seed)
        found: dict[tuple[tuple[int, ...], tuple[int, ...]], None] = {}
        # Repeated slices are thrown away. 50 draws for each slice asked for are far more than
        # needed, unless there are hardly more distinct slices than asked for.
        for _ in range(50 * self.sample):
            if len(found) == self.sample:
                break
            skip = generator.choice(skips)
            widths = tuple(width for draw in draws_of[skip] for width in generator.choice(draw))
            found[widths, skip] = None
        self._check_enough(len(found))
        return tuple(
            Slice(f"{self.name}-{self.seed}-{number:03d}", widths, skip)
            for number, (widths, skip) in enumerate(found)
        )

    def _draws(self, skip: tuple[int, ...], text: TextConfig) -> list[list[tuple[int, ...]]]:
        """The draws that make a slice: for each, what every one of `widths` would mean, in hidden
        units, for the kept layers that share it (one layer, or a block's)."""
        if self.by == "block":
            together = [[n for n in block if n not in skip] for block in text.blocks]
        else:
            together = [[n] for n in range(text.num_hidden_layers) if n not in skip]
        return [
            [tuple(width.units(n, text) for n in shared) for width in self.widths]
            for shared in together
        ]

    def _check_enough(self, distinct: int) -> None:
        if distinct < self.sample:
            raise InputError(
                f"sampler {self.name}: sample is {self.sample}, but only {distinct} distinct "
                "slices were found; allow more widths, or ask for fewer slices"
            )

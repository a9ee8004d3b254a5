"""Samplers, which draw random slices."""

import random
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import TextConfig
from matformer_lab.slicing.notation.spec import Layers, SliceSpec
from matformer_lab.slicing.notation.width import OneWidth
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
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    name: Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f]+$")] = "mix"

    def draw(self, text: TextConfig) -> tuple[Slice, ...]:
        """Draw the slices. The same seed and config always give the same ones.

        Args:
            text: The parent's config.

        Returns:
            `sample` slices, all different, called `mix-0-000` and so on (name, seed, number).

        Raises:
            InputError: A drawn slice does not fit the parent, or there are too few distinct ones.
        """
        generator = random.Random(self.seed)
        found: dict[str, Slice] = {}
        # Repeated slices are thrown away. 50 draws for each slice asked for are far more than
        # needed, unless there are hardly more distinct slices than asked for.
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
                f"sampler {self.name}: sample is {self.sample}, but only {len(found)} distinct "
                "slices were found; allow more widths, or ask for fewer slices"
            )
        return tuple(found.values())

"""Random slices."""

import random
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import TextConfig
from matformer_lab.slicing.notation.spec import Layers, SliceSpec
from matformer_lab.slicing.notation.width import OneWidth
from matformer_lab.slicing.slice import Slice


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

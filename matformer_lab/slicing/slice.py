"""A slice: the FFN width of every kept layer of a parent, and the skipped layers."""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import (
    BaseModel,
    ConfigDict,
)


class Published(BaseModel):
    """What Google published for a slice: labels, not truth (2.49 is 2.4705 when counted)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: str
    """The row's name in Google's CSV."""
    effective_params_b: float
    """Effective parameters in billions, as labelled."""
    mmlu: float
    """MMLU accuracy of the pre-trained model, percent."""


@dataclass(frozen=True)
class Slice:
    """A slice, checked against its parent.

    Attributes:
        name: The slice's name.
        widths: The FFN hidden units of each kept layer, in order.
        skipped: Indices of the parent's skipped layers, ascending.
        published: What Google published for it; None for other slices. Not compared by `==`.

    Examples:
        >>> import matformer_lab as ml
        >>> half = ml.resolve_slice("1/2", ml.open_parent("tiny"))
        >>> half.name, set(half.widths), half.skipped
        ('uniform-1-2', {32}, ())
        >>> ml.Slice("two layers", widths=(32, 64), skipped=(1,)).by_layer(3)
        {0: 32, 2: 64}
    """

    name: str
    widths: tuple[int, ...]
    skipped: tuple[int, ...] = ()
    published: Published | None = field(default=None, compare=False)

    def kept(self, num_hidden_layers: int) -> tuple[int, ...]:
        """Indices of the kept layers of a parent with `num_hidden_layers` layers, ascending."""
        return tuple(n for n in range(num_hidden_layers) if n not in self.skipped)

    def by_layer(self, num_hidden_layers: int) -> dict[int, int]:
        """The FFN width of each kept layer, by its index in the parent, in ascending order."""
        return dict(zip(self.kept(num_hidden_layers), self.widths, strict=True))

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the widths and the skipped layers; the name does not count."""
        return hashlib.sha256(f"{self.widths} {self.skipped}".encode()).hexdigest()

    @property
    def slug(self) -> str:
        """The name as a safe file name that no other slice's name gives."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip(".-")
        if slug and slug == self.name:
            return slug
        return f"{slug[:80] or 'slice'}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

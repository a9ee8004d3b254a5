"""slices.json: the parent and every scored slice, enough to draw them without a model."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.sizes import SizedPlan
from matformer_lab.slicing.slice import Slice


class _Model(BaseModel):
    # Folders written by later versions may hold more keys; they stay readable.
    model_config = ConfigDict(frozen=True, extra="ignore")


class ParentInfo(_Model):
    """What a sweep folder says about the parent, so that nobody has to open it."""

    ref: str
    name: str
    revision: str | None = None
    fingerprint: str = ""
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: tuple[int, ...]
    layer_types: tuple[str, ...]
    num_kv_shared_layers: int = 0
    activation_sparsity_pattern: tuple[float, ...] = ()

    @property
    def first_kv_shared_layer(self) -> int:
        """Index of the first layer that reuses earlier K/V; the layer count if none does."""
        return self.num_hidden_layers - self.num_kv_shared_layers


class Params(_Model):
    """Parameter counts, defined in `slicing.sizes.Sizes`."""

    total: int
    text: int
    effective: int


class ScoredSlice(_Model):
    """A slice of the sweep, with its sizes in parameters and bytes."""

    name: str
    slug: str = ""
    digest: str = ""
    widths: tuple[int, ...]
    skipped: tuple[int, ...]
    num_hidden_layers: int
    layer_types: tuple[str, ...] = ()
    params: Params
    nbytes: int = Field(alias="bytes")
    published: dict[str, Any] | None = None
    """`row` (in Google's CSV), `effective_params_b`, and the published score in percent by task."""

    @property
    def slice(self) -> Slice:
        """The slice itself, without its sizes."""
        return Slice(self.name, self.widths, self.skipped)

    @property
    def effective(self) -> int:
        """Effective parameters."""
        return self.params.effective

    @property
    def total(self) -> int:
        """All parameters."""
        return self.params.total

    def published_score(self, task: str) -> float | None:
        """The published score on `task`, as a fraction; None if there is none."""
        value = (self.published or {}).get(task)
        return value / 100 if isinstance(value, int | float) else None


class Description(_Model):
    """The content of slices.json."""

    parent: ParentInfo
    slices: tuple[ScoredSlice, ...]


def describe(parent: Parent, sized: Sequence[SizedPlan]) -> Description:
    """The description of a sweep over these slices of `parent`."""
    text = parent.text
    return Description(
        parent=ParentInfo(
            ref=parent.ref,
            name=parent.name,
            revision=parent.revision,
            fingerprint=parent.fingerprint,
            num_hidden_layers=text.num_hidden_layers,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            layer_types=text.layer_types,
            num_kv_shared_layers=text.num_kv_shared_layers,
            activation_sparsity_pattern=text.activation_sparsity_pattern,
        ),
        slices=tuple(map(_describe_slice, sized)),
    )


def _describe_slice(sized: SizedPlan) -> ScoredSlice:
    slice_, sizes = sized.slice, sized.sizes
    return ScoredSlice(
        name=slice_.name,
        slug=slice_.slug,
        digest=slice_.digest,
        widths=slice_.widths,
        skipped=slice_.skipped,
        num_hidden_layers=len(slice_.widths),
        layer_types=sized.plan.text.layer_types,
        params=Params(total=sizes.total, text=sizes.text, effective=sizes.effective),
        bytes=sizes.nbytes,
        published=slice_.published.model_dump() if slice_.published else None,
    )

"""slices.json: the parent and every scored slice, enough to draw them without a model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.validation import explain
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.sizes import SizedPlan
from matformer_lab.slicing.slice import Slice

# Counts of parameters and bytes, far above any real one: what is drawn must be finite.
_MAX_COUNT: Final = 10**18
_Count = Annotated[int, Field(ge=1, le=_MAX_COUNT)]
_Layers = Annotated[int, Field(ge=1, le=10_000)]


class _Model(BaseModel):
    # Folders written by later versions may hold more keys; they stay readable.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class ParentInfo(_Model):
    """What a sweep folder says about the parent, so that nobody has to open it."""

    ref: str
    name: str
    revision: str | None = None
    fingerprint: str = ""
    num_hidden_layers: _Layers
    hidden_size: _Count
    intermediate_size: tuple[_Count, ...]
    layer_types: tuple[str, ...]
    num_kv_shared_layers: Annotated[int, Field(ge=0)] = 0
    activation_sparsity_pattern: tuple[float, ...] = ()

    @property
    def first_kv_shared_layer(self) -> int:
        """Index of the first layer that reuses earlier K/V; the layer count if none does."""
        return self.num_hidden_layers - self.num_kv_shared_layers


class Params(_Model):
    """Parameter counts, defined in `slicing.sizes.Sizes`."""

    total: _Count
    text: _Count
    effective: _Count


class ScoredSlice(_Model):
    """A slice of the sweep, with its sizes in parameters and bytes."""

    name: str
    slug: str = ""
    digest: str = ""
    widths: tuple[_Count, ...]
    skipped: tuple[int, ...]
    num_hidden_layers: _Layers
    layer_types: tuple[str, ...] = ()
    params: Params
    nbytes: _Count = Field(alias="bytes")
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


def read_description(path: Path) -> Description:
    """The content of a slices.json file.

    Raises:
        InputError: When there is none, or what it says cannot be; names the file and the key.
    """
    if not path.exists():
        raise InputError(f"{path}: not found; {path.parent} is not a finished sweep")
    data = read_small(path)
    strict_json(data, str(path))
    remedy = "run the sweep again to rewrite it"
    try:
        description = Description.model_validate_json(data)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, Description)}; {remedy}") from None
    for problem in _problems(description):
        raise InputError(f"{path}: {problem}; {remedy}")
    return description


def _problems(description: Description) -> Iterator[str]:
    """What cannot be, though every key by itself is of the right type."""
    parent = description.parent
    full, count = parent.intermediate_size, parent.num_hidden_layers
    for name, length in (
        ("intermediate_size", len(full)),
        ("layer_types", len(parent.layer_types)),
        ("activation_sparsity_pattern", len(parent.activation_sparsity_pattern) or count),
    ):
        if length != count:
            yield f"parent.{name} has {length} entries for {count} layers"
    if parent.num_kv_shared_layers > count:
        yield f"parent.num_kv_shared_layers is {parent.num_kv_shared_layers} of {count} layers"
    names = [one.name for one in description.slices]
    if len(set(names)) < len(names):
        yield "a slice is described twice"
    for one in description.slices:
        yield from (f"slice {one.name}: {problem}" for problem in _problems_of_slice(one, full))


def _problems_of_slice(one: ScoredSlice, full: Sequence[int]) -> Iterator[str]:
    kept, skipped, params = len(one.widths), one.skipped, one.params
    if list(skipped) != sorted(set(skipped) & set(range(len(full)))):
        yield "skipped is not an ascending list of the parent's layers"
    elif kept + len(skipped) != len(full) or kept != one.num_hidden_layers:
        yield (
            f"{kept} widths for {one.num_hidden_layers} kept and {len(skipped)} skipped layers "
            f"of a parent with {len(full)}"
        )
    else:
        for layer, width in one.slice.by_layer(len(full)).items():
            if width > full[layer]:
                yield f"width {width:,} of layer {layer} is above the parent's {full[layer]:,}"
    if one.digest and one.digest != one.slice.digest:
        yield "digest is not that of its widths and skipped layers"
    if not params.effective <= params.text <= params.total:
        yield "params: effective is at most text, and text at most total"
    for key, value in (one.published or {}).items():
        number = isinstance(value, int | float) and abs(value) < _MAX_COUNT
        if not number and (key == "effective_params_b" or not isinstance(value, str | None)):
            yield f"published.{key} is not a number"


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

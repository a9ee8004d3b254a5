"""Finding the slices that people ask for: built-in names, files, widths, entries of a recipe."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_yaml import load_yaml
from matformer_lab.common.paths import StrPath
from matformer_lab.common.shipped import shipped_folder
from matformer_lab.common.validation import explain
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.e4b import check_is_e4b
from matformer_lab.slicing.notation.google_csv import load_csv
from matformer_lab.slicing.notation.sampler import SamplerSpec
from matformer_lab.slicing.notation.spec import SliceSpec
from matformer_lab.slicing.notation.width import FEWEST_UNITS, Width, ways_to_write
from matformer_lab.slicing.slice import Slice

PUBLISHED: Final = "published"
"""The reference of all slices that Google published."""

_SIZE = re.compile(
    r"(?<![a-z0-9.])(?:e([0-9]{1,3}(?:\.[0-9]+)?)b?|([0-9]{1,3}(?:\.[0-9]+)?)b|([0-9]\.[0-9]+))"
    r"(?![a-z0-9.])",
    re.ASCII | re.I,
)
"""A size as people name slices: `E3B`, `e2.5`, `3b`, `2.98`, the one in `gemma-3n-E2B-it`."""


@cache
def published_specs() -> tuple[SliceSpec, ...]:
    """The 16 slices that Google published, from `configs/published.yaml`."""
    specs = load_slices_file(shipped_folder("configs") / "published.yaml")
    return tuple(spec for spec in specs if isinstance(spec, SliceSpec))


def resolve_slice(ref: Slice | str, parent: Parent | StrPath, base: StrPath = "") -> Slice:
    """The slice of a parent that a reference names.

    Args:
        ref: A built-in name, one width for every layer (`1/2`), `FILE.yaml` or
            `FILE.csv#NAME`. A slice is returned as it is.
        parent: The parent to slice, or what `open_parent` accepts.
        base: The folder that relative file names start from.

    Raises:
        InputError: There is no such slice, it does not fit the parent, or `ref` names several.

    Examples:
        >>> import matformer_lab as ml
        >>> small = ml.resolve_slice("e2b", "tiny")
        >>> len(small.widths), small.skipped
        (30, (20, 21, 22, 23, 24))
    """
    if isinstance(ref, Slice):
        return ref
    slices = resolve_slices([ref], parent, base)
    if len(slices) != 1:
        names = ", ".join(s.name for s in slices)
        hint = f"; choose one as {ref}#NAME" if "#" not in ref and _is_file(ref) else ""
        raise InputError(f"{ref} holds {len(slices)} slices ({names:.300}){hint}")
    return slices[0]


def resolve_slices(
    entries: Sequence[object], parent: Parent | StrPath, base: StrPath = ""
) -> tuple[Slice, ...]:
    """The slices of a parent that the entries of a recipe's `slices` describe.

    Args:
        entries: Built-in names, `published`, one width for every layer (`1/2`), `FILE.yaml` or
            `FILE.csv` (with `#NAME` for one slice of it), slices written out as mappings,
            samplers, and `Slice` objects.
        parent: The parent to slice, or what `open_parent` accepts.
        base: The folder that relative file names start from.

    Returns:
        The slices in the order of `entries`; a slice that comes again under its name counts once.

    Raises:
        InputError: An entry is not understood or does not fit the parent, two different slices have
            one name, or there are no entries. The message names the entry, and the layer if the
            fault is in one.

    Examples:
        >>> import matformer_lab as ml
        >>> sampler = {"sample": 2, "widths": ["1/2", "full"]}
        >>> [one.name for one in ml.resolve_slices(["e2b", "1/2", sampler], "tiny")]
        ['e2b', 'uniform-1-2', 'mix-0-000', 'mix-0-001']
    """
    opened = open_parent(parent)
    found: dict[str, Slice] = {}
    for position, entry in enumerate(entries):
        for slice_ in _resolve(entry, opened, Path(base), f"slices[{position}]"):
            known = found.setdefault(slice_.name, slice_)
            if known != slice_:
                raise InputError(
                    f"slices[{position}]: a different slice is already named {slice_.name!r}"
                )
    if not found:
        raise InputError("slices: the list is empty")
    return tuple(found.values())


def _resolve(entry: object, parent: Parent, base: Path, where: str) -> Iterable[Slice]:
    if isinstance(entry, Slice):
        yield entry
        return
    if isinstance(entry, int | float) and not isinstance(entry, bool):
        entry = str(entry)  # a width, as YAML reads 8192 and 0.5
    specs = _specs_of_ref(entry, base) if isinstance(entry, str) else [parse_spec(entry, where)]
    for spec in specs:
        if isinstance(spec, SamplerSpec):
            yield from spec.draw(parent.text)
        else:
            if spec in published_specs():
                check_is_e4b(parent, published_specs())
            yield spec.resolve(parent.text)


def _specs_of_ref(ref: str, base: Path) -> Sequence[SliceSpec | SamplerSpec]:
    if ref == PUBLISHED:
        return published_specs()
    for spec in published_specs():
        if ref.lower() == spec.name or (spec.published and ref == spec.published.row):
            return [spec]
    if _is_file(ref):
        return _specs_of_file(ref, base)
    units = int(ref) if ref.isascii() and ref.isdecimal() and len(ref) < 20 else None
    if units is not None and 0 < units < FEWEST_UNITS:
        kept = f"{units} hidden unit{'' if units == 1 else 's'}"
        raise InputError(
            f"a slice {ref!r} would keep {kept} of each layer's FFN; {ways_to_write(units)}"
        )
    try:
        width = Width.parse(ref if units is None else units)
    except ValueError as error:
        if _NEGATIVE.fullmatch(ref):
            raise InputError(f"a slice {ref!r} has a negative width; {_WIDTHS}") from None
        what = str(error) if ref.replace(".", "").isdecimal() else _unknown(ref)
        raise InputError(what) from None
    if width.value == 0:
        raise InputError(f"a slice {ref!r} would keep nothing of each layer's FFN; {_WIDTHS}")
    return [uniform(width)]


_NEGATIVE: Final = re.compile(r"-[0-9.]+(%|x|/[0-9]+)?", re.ASCII)
_WIDTHS: Final = "a width for every layer is written 1/2, 0.5, 4x or 8192"


def uniform(width: Width) -> SliceSpec:
    """The slice with one width for every layer; its name is `uniform-1-2`, `uniform-4x` or alike.

    Examples:
        >>> uniform(Width.parse("1/2")).name
        'uniform-1-2'
    """
    return SliceSpec(name=f"uniform-{width}".replace("/", "-"), widths=width)


def _is_file(ref: str) -> bool:
    return ref.partition("#")[0].lower().endswith((".yaml", ".yml", ".csv"))


def _specs_of_file(ref: str, base: Path) -> Sequence[SliceSpec | SamplerSpec]:
    file, _, name = ref.partition("#")
    path = base / file
    specs: Sequence[SliceSpec | SamplerSpec]
    specs = load_csv(path) if path.suffix.lower() == ".csv" else load_slices_file(path)
    if not name:
        return specs
    named = [spec for spec in specs if spec.name == name]
    if any(spec != named[0] for spec in named):
        raise InputError(f"{path}: several slices are named {name!r}; rename all but one")
    if not named:
        names = ", ".join(spec.name for spec in specs)
        raise InputError(f"{path}: no slice named {name!r}; it has {names:.300}")
    return named[:1]


def load_slices_file(path: Path) -> tuple[SliceSpec | SamplerSpec, ...]:
    """The slices and samplers of a YAML file, which holds one, or several under `slices`.

    Raises:
        InputError: The file cannot be read, or an entry is wrong.
    """
    content: Any = load_yaml(path)
    if isinstance(content, Mapping) and "slices" in content:
        unknown = set(content) - {"parent", "slices"}
        if unknown:
            raise InputError(f"{path}: unknown key {min(map(str, unknown))!r} beside slices")
        content = content["slices"]
        if not isinstance(content, list):
            raise InputError(f"{path}: slices must be a list")
        return tuple(parse_spec(item, f"{path}: slices[{n}]") for n, item in enumerate(content))
    return (parse_spec(content, str(path)),)


_MISTYPED: Final = 0.85
"""How alike a reference and a name are if one is surely meant as the other (difflib's ratio)."""


def _unknown(ref: str) -> str:
    return (
        f"no slice named {ref!r}; {_nearest(ref)}`matformer-lab slices` lists the built-in ones, "
        f"{_WIDTHS}, and a file ends in .yaml or .csv"
    )


def _nearest(ref: str) -> str:
    """The published slices of the size that `ref` seems to name, else the most similar name."""
    from difflib import get_close_matches

    names = [spec.name for spec in published_specs()] + [PUBLISHED]
    if alike := get_close_matches(ref.lower(), names, n=1, cutoff=_MISTYPED):
        return f"did you mean {alike[0]!r}? "
    if size := _SIZE.search(ref.replace("_", "-")):
        wanted = float(next(number for number in size.groups() if number))
        labels = {s.name: s.published.effective_params_b for s in published_specs() if s.published}
        near = sorted(labels, key=lambda name: abs(labels[name] - wanted))[:3]
        shown = ", ".join(f"{name} ({labels[name]}B)" for name in near)
        return f"the nearest are {shown}; `matformer-lab search` finds one for a budget; "
    alike = get_close_matches(ref.lower(), names, n=1)
    return f"did you mean {alike[0]!r}? " if alike else ""


def parse_spec(written: Any, where: str) -> SliceSpec | SamplerSpec:
    """A slice or a sampler that is written out as a mapping.

    Args:
        written: As YAML or JSON gives it. A mapping with the key `sample` is a sampler.
        where: Names the file and entry in an error.

    Raises:
        InputError: It is not a mapping, or a key is unknown, missing or wrong.
    """
    if not isinstance(written, Mapping):
        raise InputError(
            f"{where}: a slice must be a mapping with name and widths, not {written!r:.60}"
        )
    model = SamplerSpec if "sample" in written else SliceSpec
    try:
        return model.model_validate(dict(written))
    except ValidationError as error:
        raise InputError(f"{where}: {explain(error, model)}") from None

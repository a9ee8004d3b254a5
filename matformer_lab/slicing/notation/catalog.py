"""Where slices come from: built-in names, files, shorthands, and the entries of a recipe."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.common.shipped import shipped_folder
from matformer_lab.common.strict_yaml import load_yaml
from matformer_lab.common.validation import explain
from matformer_lab.gemma3n import TextConfig
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.google_csv import load_csv
from matformer_lab.slicing.notation.sampler import SamplerSpec
from matformer_lab.slicing.notation.spec import SliceSpec
from matformer_lab.slicing.notation.width import Width
from matformer_lab.slicing.slice import Slice

PUBLISHED: Final = "published"


@cache
def published_specs() -> tuple[SliceSpec, ...]:
    """The 16 slices that Google published, from `configs/published.yaml`."""
    specs = load_slices_file(shipped_folder("configs") / "published.yaml")
    return tuple(spec for spec in specs if isinstance(spec, SliceSpec))


def resolve_slice(ref: str, parent: Parent, base: StrPath = "") -> Slice:
    """The one slice of `parent` that `ref` means.

    Args:
        ref: A built-in name, one width for every layer (`1/2`), `FILE.yaml`, `FILE.csv#row name`.
        parent: What it is a slice of.
        base: The folder that file names start from.

    Raises:
        InputError: When there is no such slice, it does not fit the parent, or `ref` means
            several.

    Example:
        >>> import matformer_lab as ml
        >>> small = ml.resolve_slice("e2b", ml.open_parent("tiny"))
        >>> len(small.widths), small.skipped
        (30, (20, 21, 22, 23, 24))
    """
    slices = resolve_slices([ref], parent, base)
    if len(slices) != 1:
        names = ", ".join(s.name for s in slices)
        hint = f"; choose one as {ref}#NAME" if "#" not in ref and _is_file(ref) else ""
        raise InputError(f"{ref} holds {len(slices)} slices ({names:.300}){hint}")
    return slices[0]


def resolve_slices(
    entries: Sequence[object], parent: Parent, base: StrPath = ""
) -> tuple[Slice, ...]:
    """The slices that a recipe's `slices:` list means, in order, each name once.

    Args:
        entries: Built-in names, `published`, one width for every layer (`1/2`), `FILE.yaml` or
            `FILE.csv` (with `#name` for one slice of it), slices written out as mappings,
            samplers, and slices that are resolved already.
        parent: What they are slices of.
        base: The folder that file names start from.

    Raises:
        InputError: Naming the entry, and the layer where one is at fault.

    Example:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> sampler = {"sample": 2, "widths": ["1/2", "full"]}
        >>> [one.name for one in ml.resolve_slices(["e2b", "1/2", sampler], parent)]
        ['e2b', 'uniform-1-2', 'mix-0-000', 'mix-0-001']
    """
    found: dict[str, Slice] = {}
    for position, entry in enumerate(entries):
        for slice_ in _resolve(entry, parent.text, Path(base), f"slices[{position}]"):
            known = found.setdefault(slice_.name, slice_)
            if known != slice_:
                raise InputError(
                    f"slices[{position}]: a different slice is already named {slice_.name!r}"
                )
    if not found:
        raise InputError("slices: the list is empty")
    return tuple(found.values())


def _resolve(entry: object, text: TextConfig, base: Path, where: str) -> Iterable[Slice]:
    if isinstance(entry, Slice):
        yield entry
        return
    specs = _specs_of_ref(entry, base) if isinstance(entry, str) else [parse_spec(entry, where)]
    for spec in specs:
        if isinstance(spec, SamplerSpec):
            yield from spec.draw(text)
        else:
            yield spec.resolve(text)


def _specs_of_ref(ref: str, base: Path) -> Sequence[SliceSpec | SamplerSpec]:
    if ref == PUBLISHED:
        return published_specs()
    for spec in published_specs():
        if ref == spec.name or (spec.published and ref == spec.published.row):
            return [spec]
    if _is_file(ref):
        return _specs_of_file(ref, base)
    try:
        width = Width.parse(int(ref) if ref.isascii() and ref.isdecimal() else ref)
    except ValueError:
        raise InputError(_unknown(ref)) from None
    return [uniform(width)]


def uniform(width: Width) -> SliceSpec:
    """Every layer at one width: `uniform-1-2` for 1/2, `uniform-4096`, `uniform-4x`."""
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
    if not named:
        names = ", ".join(spec.name for spec in specs)
        raise InputError(f"{path}: no slice named {name!r}; it has {names:.300}")
    return named[:1]


def load_slices_file(path: Path) -> tuple[SliceSpec | SamplerSpec, ...]:
    """A YAML file with one slice, or with several under `slices:`."""
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


def _unknown(ref: str) -> str:
    from difflib import get_close_matches

    names = [spec.name for spec in published_specs()] + [PUBLISHED]
    near = get_close_matches(ref, names, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"no slice named {ref!r}; {guess}`matformer-lab slices` lists the built-in ones; a file "
        "ends in .yaml or .csv"
    )


def parse_spec(written: Any, where: str) -> SliceSpec | SamplerSpec:
    """A slice or a sampler from a YAML mapping. `where` names the file in an `InputError`."""
    if not isinstance(written, Mapping):
        raise InputError(f"{where}: a slice is a mapping with name and widths, not {written!r:.60}")
    model = SamplerSpec if "sample" in written else SliceSpec
    try:
        return model.model_validate(dict(written))
    except ValidationError as error:
        raise InputError(f"{where}: {explain(error, model)}") from None

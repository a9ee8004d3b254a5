"""matformer_lab.json: what a written checkpoint is made of, carried inside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, ValidationError

from matformer_lab.common.errors import InputError
from matformer_lab.common.strict_json import strict_json
from matformer_lab.common.untrusted import read_small
from matformer_lab.common.validation import explain
from matformer_lab.slicing.slice import Slice

MANIFEST_FILE: Final = "matformer_lab.json"


def digest_of(data: bytes) -> str:
    """blake3 (hex), the one digest of manifests: as strong as sha256 and several times faster."""
    return blake3(data).hexdigest()


def tensor_digest(dtype: str, shape: Sequence[int]) -> blake3:
    """The beginning of a tensor's digest, to be fed its bytes.

    It counts dtype and shape, since the same bytes mean something else under others.
    """
    return blake3(f"{dtype} {list(shape)}\n".encode())


class ManifestSlice(BaseModel):
    """The slice, in the parent's terms."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    widths: tuple[int, ...]
    skipped: tuple[int, ...]


class ManifestParent(BaseModel):
    """The parent, by what it holds and not by where it lay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    revision: str | None
    fingerprint: str


class Manifest(BaseModel):
    """Everything needed to say what a checkpoint is, and to check it without its parent.

    `tensors`: `tensor_digest` (hex) of each tensor; `files`: of each other file
    that was written, but for the card.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    matformer_lab: str
    parent: ManifestParent
    slice: ManifestSlice
    text_only: bool
    digest: Literal["blake3"] = "blake3"
    tensors: dict[str, str]
    files: dict[str, str]

    def to_slice(self) -> Slice:
        return Slice(self.slice.name, self.slice.widths, self.slice.skipped)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a checkpoint folder, None if it has none. Raises `InputError`."""
    path = folder / MANIFEST_FILE
    if not path.exists():
        return None
    try:
        return Manifest.model_validate(strict_json(read_small(path), str(path)))
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, Manifest)}") from None

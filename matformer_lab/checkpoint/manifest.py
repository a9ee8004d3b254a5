"""matformer_lab.json: the manifest inside a written checkpoint, which says what it is made of."""

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
    """The hexadecimal blake3 digest of `data`.

    Manifests use blake3 throughout: it is as strong as sha256 and several times faster.
    """
    return blake3(data).hexdigest()


def tensor_digest(dtype: str, shape: Sequence[int]) -> blake3:
    """Start the digest of a tensor; the caller updates it with the tensor's bytes.

    The digest includes dtype and shape, because the same bytes mean something else under others.

    Args:
        dtype: The safetensors dtype, e.g. BF16.
        shape: The tensor's shape.
    """
    return blake3(f"{dtype} {list(shape)}\n".encode())


class ManifestSlice(BaseModel):
    """The slice.

    Attributes:
        name: The slice's name.
        widths: FFN width of each kept layer, in hidden units.
        skipped: Skipped layers, by their index in the parent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    widths: tuple[int, ...]
    skipped: tuple[int, ...]


class ManifestParent(BaseModel):
    """The parent, identified by its contents rather than its location.

    Attributes:
        name: The parent's name, for display.
        revision: The commit of a Hub parent.
        fingerprint: Digest of the parent's config and tensors (`Parent.fingerprint`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    revision: str | None
    fingerprint: str


class Manifest(BaseModel):
    """What a checkpoint is, and the digests to check it without its parent.

    Attributes:
        matformer_lab: The version that wrote the checkpoint.
        parent: What it was cut from.
        slice: Which slice it is.
        text_only: Whether the towers were left out.
        digest: The digest algorithm.
        tensors: The hexadecimal `tensor_digest` of each tensor, by name.
        files: The hexadecimal `digest_of` of each other file, by name; without the card.
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
        """The slice, not checked against any parent."""
        return Slice(self.slice.name, self.slice.widths, self.slice.skipped)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a checkpoint folder; None if it has none.

    Raises:
        InputError: When the manifest cannot be read or is not valid.
    """
    path = folder / MANIFEST_FILE
    if not path.exists():
        return None
    try:
        return Manifest.model_validate(strict_json(read_small(path), str(path)))
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, Manifest)}") from None

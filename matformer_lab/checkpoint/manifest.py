"""matformer_lab.json: the manifest inside a written checkpoint, which says what it is made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from blake3 import blake3
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from matformer_lab.checkpoint.card import CARD_FILE
from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.validation import explain
from matformer_lab.parent.folder import TEMPLATES_FOLDER
from matformer_lab.slicing.slice import Slice

MANIFEST_FILE: Final = "matformer_lab.json"

_MAX_WIDTH: Final = 2**31 - 1
_Name = Annotated[str, Field(strict=True, min_length=1)]
_Hex256 = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{64}$")]
_Width = Annotated[int, Field(strict=True, ge=1, le=_MAX_WIDTH)]
_Layer = Annotated[int, Field(strict=True, ge=0)]


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

    name: _Name
    widths: tuple[_Width, ...] = Field(min_length=1)
    skipped: tuple[_Layer, ...]

    @model_validator(mode="after")
    def _of_one_parent(self) -> Self:
        """Whether some parent has these layers: as many as are kept and skipped together."""
        if list(self.skipped) != sorted(set(self.skipped)):
            raise ValueError("'skipped' must name each layer once, in ascending order")
        layers = len(self.widths) + len(self.skipped)
        if self.skipped and self.skipped[-1] >= layers:
            raise ValueError(
                f"'skipped' names layer {self.skipped[-1]}, but there are {layers} layers in all"
            )
        return self


class ManifestParent(BaseModel):
    """The parent, identified by its contents rather than its location.

    Attributes:
        name: The parent's name, for display.
        revision: The commit of a Hub parent.
        fingerprint: Digest of the parent's config and tensors (`Parent.fingerprint`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Name
    revision: _Name | None
    fingerprint: _Hex256


class ManifestFilled(BaseModel):
    """What the checkpoint has and its parent lacks (`slicing.filling`).

    Attributes:
        config: Keys of the text config.
        kv_layers: Layers of this checkpoint, sharing K/V, whose K/V tensors were filled in.
        kv_from: The name of the checkpoint that these are from, with its revision if it has one;
            None: they are copies of the K/V that the layers share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: tuple[_Name, ...] = ()
    kv_layers: tuple[_Layer, ...] = ()
    kv_from: _Name | None = None


class ManifestLink(BaseModel):
    """What a checkpoint is of an ancestor, which its parent is a slice of.

    Attributes:
        parent: The ancestor.
        slice: Which slice of it the checkpoint is.
        filled: What the checkpoint has and the ancestor lacks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parent: ManifestParent
    slice: ManifestSlice
    filled: ManifestFilled | None = None

    def to_slice(self) -> Slice:
        """The slice, not checked against any parent."""
        return Slice(self.slice.name, self.slice.widths, self.slice.skipped)


class Manifest(BaseModel):
    """What a checkpoint is, and the digests to check it without its parent.

    Attributes:
        matformer_lab: The version that wrote the checkpoint.
        parent: What it was cut from.
        slice: Which slice it is.
        filled: What it has and its parent lacks; None if nothing was filled in.
        ancestors: What it is of the checkpoints that its parent is a slice of, the nearest first.
        text_only: Whether the towers were left out.
        digest: The digest algorithm.
        tensors: The hexadecimal `tensor_digest` of each tensor, by name.
        files: The hexadecimal `digest_of` of each other file, by name; without the card.
        seal: The hexadecimal digest of all of the above, by which a manifest that was edited or
            damaged is known; None in those of the first 0.1.0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    matformer_lab: _Name
    parent: ManifestParent
    slice: ManifestSlice
    filled: ManifestFilled | None = None
    ancestors: tuple[ManifestLink, ...] = Field(default=(), max_length=64)
    text_only: StrictBool
    digest: Literal["blake3"] = "blake3"
    tensors: dict[_Name, _Hex256] = Field(min_length=1)
    files: dict[_Name, _Hex256]
    seal: _Hex256 | None = None

    @field_validator("files")
    @classmethod
    def _beside_the_weights(cls, files: dict[str, str]) -> dict[str, str]:
        if "config.json" not in files:
            raise ValueError("has no 'config.json'")
        for name in files:
            bare = name.removeprefix(f"{TEMPLATES_FOLDER}/")
            plain = Path(bare).name == bare and not set(bare) & set("\0\\")
            if not plain or name in (MANIFEST_FILE, CARD_FILE) or name.endswith(".safetensors"):
                raise ValueError(f"names {name!r}, which is not a file beside the weights")
        return files

    @property
    def link(self) -> ManifestLink:
        """What the checkpoint is of its parent."""
        return ManifestLink(parent=self.parent, slice=self.slice, filled=self.filled)

    def to_slice(self) -> Slice:
        """The slice, not checked against any parent."""
        return self.link.to_slice()

    @property
    def expected_seal(self) -> str:
        """What `seal` has to be."""
        return digest_of(self.model_dump_json(exclude={"seal"} | self._unsaid).encode())

    @property
    def _unsaid(self) -> set[str]:
        """What is left out where there is nothing to say, as in manifests that did not have it."""
        return {key for key in ("filled", "ancestors") if not getattr(self, key)}

    def as_json(self) -> str:
        """The manifest as its file holds it."""
        return self.model_dump_json(indent=2, exclude=self._unsaid) + "\n"

    def sealed(self) -> "Manifest":
        """The same with its seal."""
        return self.model_copy(update={"seal": self.expected_seal})


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

"""A parent: a checkpoint's config and the layout of its tensors, without its weights."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.content_digest import known_digest
from matformer_lab.common.progress import bytes_bar
from matformer_lab.gemma3n import (
    EMBED_TOKENS,
    LM_HEAD,
    TextConfig,
    expected_tensors,
    is_multimodal,
    is_notebooks,
    read_text_config,
    split_layer,
)
from matformer_lab.parent.quantised import (
    QuantisedCheckpoint,
    QuantisedError,
    first_quantised,
    has_quantised_towers,
    says_quantised,
)
from matformer_lab.parent.weights.head import has_head
from matformer_lab.parent.weights.headers import TensorInfo
from matformer_lab.parent.weights.spelling import Spelling, spelling_of
from matformer_lab.parent.weights.unexpected import beside_the_model, check_merged, check_unexpected
from matformer_lab.parent.weights.weight_files import WeightFiles

if TYPE_CHECKING:
    from matformer_lab.parent.weights.weight_scan import WeightScan

_GOOGLES: Final = ("gemma-3n-E4B", "gemma-3n-E4B-it")
_TEXT_DTYPES: Final = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class Parent:
    """A checked Gemma 3n checkpoint: every text tensor that its config calls for is there.

    Attributes:
        ref: As the caller gave it: `tiny`, a folder or a Hub id, with the revision if it had one.
        name: For people: the folder's name or the Hub id.
        config: The config.json, as written.
        text: The text part of the config, checked.
        tensors: Where each tensor lies, by its full name, spelled as published.
        prefix: What precedes the names of the text tensors, e.g. `model.language_model.`.
        folder: The folder with the weights; None for a Hub repository of which only the config and
            the headers were read.
        revision: The commit of a parent from the Hub; None for other parents.
        separate_head: Whether the LM head is a tensor of its own, not the embeddings.
        stored: The name in its file of each tensor that is not spelled as published.
        notes: What a user should know about how the checkpoint was read, a line each.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> parent.name, parent.multimodal, parent.prefix
        ('tiny', False, 'model.')
        >>> parent.text.layer_types[4], len(parent.tensors)
        ('full_attention', 851)
    """

    ref: str
    name: str
    config: Mapping[str, Any] = field(repr=False)
    text: TextConfig = field(repr=False)
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    prefix: str
    folder: Path | None
    revision: str | None = None
    separate_head: bool = False
    stored: Mapping[str, str] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def multimodal(self) -> bool:
        """Whether it is a full `gemma3n`, with vision and audio towers."""
        return is_multimodal(self.config)

    @property
    def dtype(self) -> str:
        """The safetensors dtype of the text weights, e.g. BF16."""
        return self.tensors[self.prefix + EMBED_TOKENS].dtype

    @property
    def local(self) -> Path:
        """The folder with the weights.

        Raises:
            InputError: The weights are not downloaded.
        """
        if self.folder is None:
            raise InputError(f"{self.ref}: its weights are not downloaded")
        return self.folder

    @property
    def base_model(self) -> str | None:
        """The parent's Hub id, or None if it is not known.

        Known for a parent from the Hub, for a snapshot folder in a Hub cache, and for a folder with
        the name of one of Google's E4B repositories.
        """
        if self.folder is None or self.revision is not None:
            return self.name
        if self.name in _GOOGLES:
            return f"google/{self.name}"
        home = self.folder.resolve()
        cached = home.parent.parent.name if home.parent.name == "snapshots" else ""
        return cached.removeprefix("models--").replace("--", "/", 1) or None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over config, tensor layout and every byte of the weights.

        The weights are read once, with a bar where there is a terminal; after that their digests
        are known as long as the files do not change (`common.content_digest`). A Hub parent counts
        its commit instead, which stands for its files, so that it need not be downloaded.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name in sorted(self.tensors):
            info = self.tensors[name]
            digest.update(f"{name} {info.dtype} {info.shape} {info.file}\n".encode())
        if self.folder is None or self.revision is not None:
            digest.update(f"{self.name}@{self.revision}".encode())
            return digest.hexdigest()
        for one in self._scans.values():
            digest.update(f"{one.digest}\n".encode())
        return digest.hexdigest()

    @cached_property
    def not_finite(self) -> frozenset[str]:
        """The names of the tensors with NaN or infinity, found in the same reading.

        Raises:
            InputError: The weights are not downloaded, or cannot be read.
        """
        return frozenset(
            name
            for name, info in self.tensors.items()
            if info.offset in self._scans[info.file].not_finite and info.nbytes
        )

    @cached_property
    def _scans(self) -> "dict[str, WeightScan]":
        """By file, what one reading of all its bytes found."""
        # It imports numpy, which no plan needs.
        from matformer_lab.parent.weights.weight_scan import scan

        of_file: dict[str, list[TensorInfo]] = {}
        for info in self.tensors.values():
            of_file.setdefault(info.file, []).append(info)
        paths = {file: self.local / file for file in sorted(of_file)}
        new = any(known_digest(path) is None for path in paths.values())
        size = sum(path.stat().st_size for path in paths.values())
        with bytes_bar(f"fingerprint of {self.name}", size, new) as advance:
            return {file: scan(path, of_file[file], advance) for file, path in paths.items()}


def build_parent(
    *,
    ref: str,
    name: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    folder: Path | None,
    revision: str | None = None,
) -> Parent:
    """Make a `Parent` once its layout fits its config.

    Args:
        ref: The parent's `ref`, which also names it in errors.
        name: The parent's `name`.
        config: The config.json, as written.
        tensors: Every tensor of the checkpoint by the name in its file.
        folder: The folder with the weights, if there is one.
        revision: The commit of a parent from the Hub.

    Raises:
        QuantisedError: The weights are quantised; it says how.
        InputError: The config is not a Gemma 3n's; a text tensor that it calls for is missing, has
            another shape, or has a dtype other than BF16, F16 and F32; the names are spelled in no
            known way; or there are tensors of an adapter, or others that no rule cuts.
    """
    text = read_text_config(config, f"{ref}: config.json")
    if (found := first_quantised(config, tensors)) is not None:
        raise QuantisedError(QuantisedCheckpoint(ref, name, config, text, tensors, *found, folder))
    check_merged(tensors, ref)
    spelling = spelling_of(tensors, full=is_multimodal(config), where=ref)
    stored = {new: old for old, new in spelling.published.items() if new != old}
    tensors = {spelling.published[name]: info for name, info in tensors.items()}
    prefix = spelling.prefix
    head = has_head(config, tensors, ref)
    check_unexpected(tensors, prefix, text, ref)
    for expected in expected_tensors(text, head=head):
        full_name = expected.name if expected.name == LM_HEAD else prefix + expected.name
        info = tensors.get(full_name)
        if info is None:
            if expected.required:
                _, others = beside_the_model(tensors, prefix, text)
                raise InputError(
                    f"{ref}: tensor {full_name} is missing, but config.json calls for it"
                    f"{_in_its_place(expected.name, prefix, others)}"
                )
        elif info.shape != expected.shape:
            raise InputError(
                f"{ref}: tensor {full_name} has shape {list(info.shape)}, but "
                f"config.json calls for {list(expected.shape)}"
            )
        elif info.dtype not in _TEXT_DTYPES:
            raise InputError(
                f"{ref}: tensor {full_name} is {info.dtype}; slicing takes "
                f"{', '.join(_TEXT_DTYPES)} checkpoints, not quantised ones"
            )
    return Parent(
        ref=ref,
        name=name,
        config=config,
        text=text,
        tensors=tensors,
        prefix=prefix,
        folder=folder,
        revision=revision,
        separate_head=head,
        stored=stored,
        notes=tuple(_notes(config, tensors, text, spelling, ref)),
    )


def _in_its_place(missing: str, prefix: str, others: Sequence[str]) -> str:
    """The tensor that may be the missing one under another name, as the end of a sentence."""
    from difflib import get_close_matches

    layer, rest = split_layer(missing)
    same = [name for name in others if layer is not None and name.endswith(f".{layer}.{rest}")]
    near = same or get_close_matches(prefix + missing, others, n=1, cutoff=0.8)
    return f"; the files have {near[0]} instead" if near else ""


def _notes(
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    text: TextConfig,
    spelling: Spelling,
    ref: str,
) -> Iterator[str]:
    if spelling.note:
        yield spelling.note
    past, others = beside_the_model(tensors, spelling.prefix, text)
    if past:
        yield (
            f"{ref}: holds layers past the {text.num_hidden_layers} of its config.json "
            f"({past[0]}); they are left out"
        )
    inside = [name for name in others if name.startswith(spelling.prefix)]
    outside = [name for name in others if not name.startswith(spelling.prefix)]
    of_full = "slices carry them unchanged, but text-only ones leave them out"
    for names, fate in (
        (inside, "slices carry them unchanged"),
        (outside, of_full if is_multimodal(config) else "slices leave them out"),
    ):
        if names:
            yield (
                f"{ref}: holds tensors that Gemma 3n does not have ({len(names)}, such as "
                f"{names[0]}); {fate}, and transformers ignores them"
            )
    if says_quantised(config) and not has_quantised_towers(tensors):
        yield (
            f"{ref}: config.json has settings of quantisation, but no tensor is quantised; slices "
            "are written without them"
        )
    if is_notebooks(config):
        yield (
            f"{ref}: Google's notebook wrote its config.json, with too many layer_types; it is "
            "read as E4B without layers 20-24"
        )


def parent_of_candidates(
    found: Sequence[WeightFiles], build: Callable[[WeightFiles], Parent], ref: str
) -> Parent:
    """The parent whose weights are those of the candidates that belong to its config.

    Args:
        found: What may be the weights; at least one.
        build: Reads the headers of a candidate and calls `build_parent`.
        ref: Names the parent in an error.

    Raises:
        InputError: No candidate fits the config, or more than one does.
    """
    if len(found) == 1:
        return build(found[0])
    fitting: dict[str, Parent] = {}
    problems: list[InputError] = []
    for weights in found:
        try:
            fitting[weights.name] = build(weights)
        except InputError as error:
            problems.append(error)
    names = " and ".join(fitting or [weights.name for weights in found])
    if not fitting:
        raise InputError(f"{ref}: none of {names} is what config.json calls for: {problems[-1]}")
    first, *others = fitting.values()
    # Some tools write an index beside a single file; it names that file.
    if any(other.tensors != first.tensors for other in others):
        raise InputError(
            f"{ref}: {names} each hold a whole checkpoint; remove the one that is left over"
        )
    return first

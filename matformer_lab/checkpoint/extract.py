"""Write a planned child as a checkpoint folder: whole under its final name, or not there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from matformer_lab import __version__
from matformer_lab.checkpoint.card import CARD_FILE, model_card
from matformer_lab.checkpoint.manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestParent,
    ManifestSlice,
    digest_of,
)
from matformer_lab.checkpoint.shard_writer import THREADS, Digests, write_shards
from matformer_lab.checkpoint.shards import Shard, index_json, split
from matformer_lab.checkpoint.staging import (
    Staging,
    check_space,
    check_target,
    published_before,
    staging,
)
from matformer_lab.common.atomic import write_atomic
from matformer_lab.common.errors import InputError
from matformer_lab.common.progress import Advance, quiet
from matformer_lab.common.untrusted import read_small
from matformer_lab.parent.parent import INDEX_FILE, Parent, path_inside, read_config, read_layout
from matformer_lab.slicing.plan import Plan

DEFAULT_MAX_SHARD_BYTES: Final = 5 * 10**9

_TOKENIZER_FILES: Final = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*.model", "generation_config.json", "chat_template*", "LICENSE*", "LICENCE*", "NOTICE*",
    "USE_POLICY*",
)  # fmt: skip
_PROCESSOR_FILES: Final = ("*processor_config.json",)
_NEVER: Final = {".safetensors", ".bin", ".pt", ".pth", ".pkl", ".py"}
"""Weights and code, whatever they are called."""


def write_checkpoint(
    plan: Plan,
    out: Path,
    *,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    base_model: str | None = None,
    advance: Advance = quiet,
    threads: int = THREADS,
) -> Path:
    """Write the child to `out` and return it. `advance` is told the bytes written.

    The same inputs give the same bytes whatever `threads` is. Raises `InputError` when the target
    cannot be used, the disk is full, or the parent changes meanwhile.
    """
    source = plan.parent.local
    watch = ParentWatch(plan.parent)
    job = {
        **watch.job,
        "slice": [plan.slice.name, plan.slice.digest],
        "base_model": base_model,
        "text_only": plan.text_only,
        "max_shard_bytes": max_shard_bytes,
    }
    if published_before(out, job):
        return out
    check_target(source, out)
    shards = split(plan.tensors, max_shard_bytes)
    side = read_side_files(plan)
    check_space(out, sum(shard.nbytes for shard in shards))
    with staging(out, source, job) as place:
        work = place.subfolder("work")
        keep_only(place.files, {shard.file for shard in shards})
        with watch.reading(place):
            written = write_shards(
                source, shards, place.files, work, advance=advance, threads=threads
            )
        digests = {name: digest for file in written.values() for name, digest in file.items()}
        write_rest(plan, side, place.files, shards, digests, base_model)
        place.publish()
    return out


class ParentWatch:
    """Notices a parent that changes between the plan and the last byte read."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._state = self._look()
        folder = parent.local
        if read_config(folder) != parent.config or read_layout(folder) != parent.tensors:
            raise self._changed()

    def _look(self) -> dict[str, tuple[int, int]]:
        """Size and modification time of every file read."""
        files = {info.file for info in self._parent.tensors.values()} | {"config.json"}
        try:
            stats = {file: (self._parent.local / file).stat() for file in sorted(files)}
        except OSError:
            raise self._changed() from None
        return {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}

    def _changed(self) -> InputError:
        return InputError(f"{self._parent.ref}: changed while it was read; run again")

    @property
    def job(self) -> dict[str, Any]:
        """What an unfinished run's pieces must have been made from to be of use."""
        return {
            "matformer_lab": __version__,
            "parent": self._parent.fingerprint,
            "state": [*self._state.items()],
        }

    @contextmanager
    def reading(self, place: Staging) -> Iterator[None]:
        """Raise `InputError`, and throw away what was written, if the parent changed within."""
        try:
            yield
        except InputError:
            # A file that shrank reads as a damaged one. That it changed is the whole truth.
            self._check(place)
            raise
        self._check(place)

    def _check(self, place: Staging) -> None:
        if self._look() != self._state:
            place.discard()
            raise self._changed() from None


def keep_only(folder: Path, names: set[str]) -> None:
    """Remove what an unfinished run left besides `names`."""
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def read_side_files(plan: Plan) -> dict[str, bytes]:
    """The parent's files that come along: tokenizer, processor, templates, licence."""
    patterns = _TOKENIZER_FILES + (() if plan.text_only else _PROCESSOR_FILES)
    folder = plan.parent.local
    names = {path.name for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {
        name: read_small(path_inside(folder, name, str(folder)))
        for name in sorted(names)
        if Path(name).suffix.lower() not in _NEVER
    }


def write_rest(
    plan: Plan,
    side: Mapping[str, bytes],
    folder: Path,
    shards: Sequence[Shard],
    digests: Digests,
    base_model: str | None,
) -> None:
    """Write everything but the weights into `folder`."""
    files = dict(side)
    files["config.json"] = (json.dumps(plan.config, indent=2, ensure_ascii=False) + "\n").encode()
    files[CARD_FILE] = model_card(plan, base_model).encode()
    if len(shards) > 1:
        files[INDEX_FILE] = index_json(shards)
    manifest = Manifest(
        matformer_lab=__version__,
        parent=ManifestParent(
            name=plan.parent.name,
            revision=plan.parent.revision,
            fingerprint=plan.parent.fingerprint,
        ),
        slice=ManifestSlice(
            name=plan.slice.name, widths=plan.slice.widths, skipped=plan.slice.skipped
        ),
        text_only=plan.text_only,
        tensors=dict(sorted(digests.items())),
        # Not the card, which people edit.
        files={n: digest_of(data) for n, data in sorted(files.items()) if n != CARD_FILE},
    )
    files[MANIFEST_FILE] = (manifest.model_dump_json(indent=2) + "\n").encode()
    for name, data in files.items():
        write_atomic(folder / name, data)

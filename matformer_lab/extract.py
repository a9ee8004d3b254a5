"""Write a planned child as a checkpoint folder: whole under its final name, or not there.

Work happens in `.NAME.partial` beside the target. Each shard is written, synced and renamed there
with its digests beside it, so that a run after a kill keeps finished shards and nothing else; the
folder gets its final name last.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matformer_lab import __version__
from matformer_lab.atomic import fsync_folder, write_atomic
from matformer_lab.card import model_card
from matformer_lab.errors import InputError
from matformer_lab.manifest import MANIFEST_FILE, Manifest, ManifestParent, ManifestSlice
from matformer_lab.parent import INDEX_FILE, path_inside
from matformer_lab.plan import Plan, TensorPlan
from matformer_lab.progress import Advance, quiet
from matformer_lab.shards import Shard, index_json, split
from matformer_lab.tensor_bytes import child_bytes, thread_scratch

DEFAULT_MAX_SHARD_BYTES: Final = 5 * 10**9

_TOKENIZER_FILES: Final = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*.model", "generation_config.json", "chat_template*", "LICENSE*", "LICENCE*", "NOTICE*",
    "USE_POLICY*",
)  # fmt: skip
_PROCESSOR_FILES: Final = ("*processor_config.json",)
_JOB_FILE: Final = "job.json"


def side_files(plan: Plan) -> tuple[Path, ...]:
    """The parent's files that come along: tokenizer, processor, templates, licence."""
    patterns = _TOKENIZER_FILES + (() if plan.text_only else _PROCESSOR_FILES)
    folder = plan.parent.local
    names = {path.name for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return tuple(path_inside(folder, name, str(folder)) for name in sorted(names))


def write_checkpoint(
    plan: Plan,
    out: Path,
    *,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    base_model: str | None = None,
    advance: Advance = quiet,
    threads: int = 2,
) -> Path:
    """Write the child to `out` and return it. `advance` is told the bytes written.

    The same inputs give the same bytes whatever `threads` is. Raises `InputError` when the target
    cannot be used, the disk is full, or the parent changes meanwhile.
    """
    check_target(plan.parent.local, out)
    shards = split(plan.tensors, max_shard_bytes)
    check_space(out, sum(shard.nbytes for shard in shards))
    before = _parent_state(plan)
    with _staging(out, plan, max_shard_bytes) as staging, _disk_errors(out):
        digests: dict[str, str] = {}
        for shard in shards:
            digests |= _finished(staging, shard) or _write_shard(
                plan.parent.local, staging, shard, advance, threads
            )
        if _parent_state(plan) != before:
            shutil.rmtree(staging)
            raise InputError(f"{plan.parent.ref}: changed while it was read; run again")
        _write_rest(plan, staging, shards, digests, base_model)
        _publish(staging, out)
    return out


def check_target(parent_folder: Path | None, out: Path) -> None:
    """`out` must be new (or an empty folder), and not inside the parent (None: still remote)."""
    target = out.resolve()
    parent = parent_folder and parent_folder.resolve()
    if target == parent:
        raise InputError(f"{out}: is the parent itself; give another folder")
    if parent and target.is_relative_to(parent):
        raise InputError(f"{out}: lies inside the parent {parent_folder}; give another folder")
    if target.exists() and not target.is_dir():
        raise InputError(f"{out}: is a file; give a new folder")
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{out}: already exists and is not empty; remove it or give a new folder")


def check_space(out: Path, needed: int) -> None:
    """Refuse before writing what the disk has no room for."""
    place = next(folder for folder in out.resolve().parents if folder.exists())
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return
    free += _size_of(_staging_path(out))
    if free < needed:
        raise InputError(
            f"{out}: needs {needed / 1e9:,.2f} GB, the disk has {free / 1e9:,.2f} GB free"
        )


def _size_of(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except OSError:
        return 0


def _parent_state(plan: Plan) -> Mapping[str, tuple[int, int]]:
    """Size and modification time of every file read."""
    files = {tensor.info.file for tensor in plan.tensors} | {"config.json"}
    stats = {file: (plan.parent.local / file).stat() for file in sorted(files)}
    return {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}


def _staging_path(out: Path) -> Path:
    target = out.resolve()
    return target.parent / f".{target.name}.partial"


@contextmanager
def _staging(out: Path, plan: Plan, max_shard_bytes: int) -> Iterator[Path]:
    """The folder to work in, locked. What another job left in it is cleared away."""
    staging = _staging_path(out)
    job = json.dumps(
        {
            "matformer_lab": __version__,
            "parent": plan.parent.fingerprint,
            "state": [*_parent_state(plan).items()],
            "slice": plan.slice.digest,
            "text_only": plan.text_only,
            "max_shard_bytes": max_shard_bytes,
        }
    ).encode()
    with _disk_errors(out):
        staging.mkdir(parents=True, exist_ok=True)
    with _locked(staging, out):
        known = staging / _JOB_FILE
        with _disk_errors(out):
            if not known.exists() or known.read_bytes() != job:
                for path in staging.iterdir():
                    path.unlink()
                write_atomic(known, job)
        yield staging


@contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    """Hold the folder alone. The lock dies with the process, so a kill leaves nothing to clean."""
    try:
        import fcntl
    except ImportError:  # not POSIX: no lock, as most tools there
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{out}: another run is writing it; wait for it or stop it") from None
        except OSError:
            pass  # some network filesystems have no locks
        if not folder.exists() or folder.stat().st_ino != os.fstat(descriptor).st_ino:
            raise InputError(f"{out}: another run has just finished writing it")
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or out
        raise InputError(
            f"{out}: cannot be written ({error.strerror}: {where}); what is finished is kept, "
            "run again to continue"
        ) from None


def _digests_path(staging: Path, shard: Shard) -> Path:
    return staging / f".{shard.file}.digests.json"


def _finished(staging: Path, shard: Shard) -> dict[str, str] | None:
    """The digests of a shard that an earlier run completed."""
    path, digests = staging / shard.file, _digests_path(staging, shard)
    if not path.exists() or not digests.exists() or path.stat().st_size != shard.nbytes:
        return None
    found: dict[str, str] = json.loads(digests.read_bytes())
    return found


@dataclass(frozen=True)
class _Target:
    """Where one tensor goes."""

    tensor: TensorPlan
    descriptor: int
    offset: int


def _write_shard(
    parent: Path, staging: Path, shard: Shard, advance: Advance, threads: int
) -> dict[str, str]:
    temporary = staging / f".{shard.file}.tmp"
    with temporary.open("wb", buffering=0) as file, ThreadPoolExecutor(threads) as pool:
        descriptor = file.fileno()
        os.pwrite(descriptor, shard.header, 0)
        os.truncate(descriptor, shard.nbytes)
        targets = [_Target(tensor, descriptor, at) for tensor, at in shard.offsets()]
        # The largest first, so that no thread is left alone with it at the end.
        targets.sort(key=lambda target: -target.tensor.nbytes)
        jobs = [pool.submit(_write_tensor, parent, target, advance) for target in targets]
        try:
            digests = dict(job.result() for job in jobs)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        os.fsync(descriptor)
    write_atomic(_digests_path(staging, shard), json.dumps(digests).encode())
    temporary.replace(staging / shard.file)
    return digests


def _write_tensor(parent: Path, target: _Target, advance: Advance) -> tuple[str, str]:
    digest = hashlib.sha256()
    offset = target.offset
    for piece in child_bytes(parent, target.tensor, thread_scratch()):
        digest.update(piece)
        offset += _write_all(target.descriptor, piece, offset)
        advance(len(piece))
    return target.tensor.name, digest.hexdigest()


def _write_all(descriptor: int, piece: memoryview, offset: int) -> int:
    done = 0
    while done < len(piece):
        done += os.pwrite(descriptor, piece[done:], offset + done)
    return done


def _write_rest(
    plan: Plan,
    staging: Path,
    shards: tuple[Shard, ...],
    digests: Mapping[str, str],
    base_model: str | None,
) -> None:
    """Everything but the weights."""
    files = {path.name: path.read_bytes() for path in side_files(plan)}
    files["config.json"] = (json.dumps(plan.config, indent=2, ensure_ascii=False) + "\n").encode()
    files["README.md"] = model_card(plan, base_model).encode()
    if len(shards) > 1:
        files[INDEX_FILE] = index_json(shards)
    for name, data in files.items():
        write_atomic(staging / name, data)
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
        files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    )
    write_atomic(staging / MANIFEST_FILE, (manifest.model_dump_json(indent=2) + "\n").encode())


def _publish(staging: Path, out: Path) -> None:
    """Drop the working files and give the folder its name."""
    for path in staging.iterdir():
        if path.name == _JOB_FILE or path.name.startswith("."):
            path.unlink()
    fsync_folder(staging)
    target = out.resolve()
    staging.replace(target)
    fsync_folder(target.parent)

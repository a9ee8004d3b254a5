"""Write a planned child as a checkpoint folder, which appears only once it is complete."""

from pathlib import Path
from typing import Final

from matformer_lab.checkpoint.contents import file_names, read_side_files, write_other_files
from matformer_lab.checkpoint.disk.shard_writer import THREADS, growing_name, write_shards
from matformer_lab.checkpoint.disk.shards import split
from matformer_lab.checkpoint.disk.staging import (
    check_space,
    check_target,
    published_before,
    staging,
)
from matformer_lab.checkpoint.parent_watch import ParentWatch
from matformer_lab.checkpoint.sources import with_local_weights
from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath, to_path
from matformer_lab.common.progress import Progress, bytes_bar
from matformer_lab.common.units import parse_size
from matformer_lab.parent.hub import looks_like_repo_id
from matformer_lab.slicing.plan import Plan

DEFAULT_MAX_SHARD_SIZE: Final = "5GB"


def write_checkpoint(
    plan: Plan,
    out: StrPath,
    *,
    max_shard_size: int | str = DEFAULT_MAX_SHARD_SIZE,
    base_model: str | None = None,
    progress: Progress = True,
    threads: int = THREADS,
) -> Path:
    """Write the child that `plan` describes as a checkpoint folder.

    Of a Hub parent, the weights that the plan needs are downloaded first. The folder appears under
    its name once it is complete. A killed run leaves the files it finished, and the same call
    continues from there. The same inputs give the same bytes, whatever `threads` is.

    Args:
        plan: From `make_plan`.
        out: The folder to write, new or empty.
        max_shard_size: Maximum file size, in bytes or as a string like "5GB". Only a file with a
            single tensor may exceed it.
        base_model: The parent's Hub id, for the model card; None: as the parent or its own card
            gives it.
        progress: Whether to show a progress bar, on a terminal or in a notebook; or a function
            that is called with the number of bytes written since its last call.
        threads: Number of tensors processed concurrently.

    Returns:
        `out` as a path.

    Raises:
        InputError: When `out` cannot be used, the disk is full, a Hub parent cannot be downloaded,
            or the parent changes while it is read.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> plan = ml.make_plan(parent, ml.resolve_slice("e2b", parent))
        >>> sorted(path.name for path in ml.write_checkpoint(plan, "tiny-e2b").iterdir())[:3]
        ['README.md', 'chat_template.jinja', 'config.json']
    """
    out = to_path(out)
    max_shard_bytes = parse_size(max_shard_size, "max_shard_size")
    check_base_model(base_model)
    (plan,) = with_local_weights([plan], out, progress=progress is True)
    source = plan.parent.local
    watch = ParentWatch(plan.parent, plan.filling.kv_from)
    side_files = read_side_files(plan)
    shards = split(plan.tensors, max_shard_bytes)
    order = {
        **watch.order,
        "slice": [plan.slice.name, plan.slice.digest],
        "base_model": base_model,
        "text_only": plan.text_only,
        "filling": sorted(plan.filling.asked),
        "max_shard_bytes": max_shard_bytes,
        "writes": [
            *(f"files/{name}" for name in sorted(file_names(side_files, shards))),
            *(f"work/{growing_name(shard)}" for shard in shards),
        ],
    }
    if published_before(out, order):
        return out
    check_target(source, out)
    check_space(out, sum(shard.nbytes for shard in shards))
    with staging(out, source, order) as stage:
        work = stage.subfolder("work")
        stage.keep_only("files", (shard.file for shard in shards))
        title = f"{plan.slice.name} -> {out}"
        with watch.reading(stage), bytes_bar(title, plan.nbytes, progress) as advance:
            written = write_shards(
                source, shards, stage.files, work, advance=advance, threads=threads
            )
        digests = {name: digest for file in written.values() for name, digest in file.items()}
        write_other_files(plan, side_files, stage.files, shards, digests, base_model)
        stage.publish()
    return out


def check_base_model(base_model: str | None) -> None:
    """Raise `InputError` unless `base_model` is None or has the form of a Hub id."""
    if base_model is not None and not looks_like_repo_id(base_model):
        raise InputError(
            f"`base_model` is {base_model!r}; it must be the parent's Hub id, org/name"
        )

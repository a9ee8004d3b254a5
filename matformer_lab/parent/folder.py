"""A local checkpoint folder: its config.json and the layout of its tensors."""

from pathlib import Path
from typing import Any

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.strict_json import strict_json
from matformer_lab.common.untrusted import read_small
from matformer_lab.parent.headers import TensorInfo, read_header
from matformer_lab.parent.index import INDEX_FILE, add_shard, check_index_complete, parse_index
from matformer_lab.parent.parent import SINGLE_FILE, Parent, build_parent


def open_folder(folder: Path, *, ref: str | None = None, name: str | None = None) -> Parent:
    """Open a local checkpoint folder.

    Args:
        folder: The folder.
        ref: The parent's `ref`; the folder as given if None.
        name: The parent's `name`; the folder's own name if None.

    Raises:
        InputError: The folder is not a whole Gemma 3n checkpoint, or cannot be read.
    """
    try:
        config, tensors = read_config(folder), read_layout(folder)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None
    return build_parent(
        ref=ref or str(folder),
        name=name or folder.resolve().name,
        config=config,
        tensors=tensors,
        folder=folder,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder, as written.

    Raises:
        InputError: It is missing, too large or not a JSON object, or links out of the folder.
        OSError: The folder cannot be read.
    """
    path = path_inside(folder, "config.json", str(folder))
    if not path.exists():
        raise InputError(f"{folder}: no config.json; is this a checkpoint folder?")
    return strict_json(read_small(path), str(path))


def read_layout(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint folder by name, from a single file or shards with an index.

    Raises:
        InputError: There are no safetensors weights, a file is broken or links out of the folder,
            or the index and the shards disagree.
        OSError: The folder cannot be read.
    """
    if (folder / SINGLE_FILE).exists():
        return read_header(path_inside(folder, SINGLE_FILE, str(folder)))
    index = folder / INDEX_FILE
    if index.exists():
        return _read_sharded(folder, index)
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise InputError(
            f"{folder}: only pickle weights (.bin, .pt), which can run code when they are read; "
            "convert them to safetensors first"
        )
    if (folder / ".gitattributes").exists() or any(folder.glob("*.safetensors")):
        raise InputError(f"{folder}: has neither {SINGLE_FILE} nor {INDEX_FILE}")
    raise InputError(f"{folder}: no safetensors weights found")


def _read_sharded(folder: Path, index: Path) -> dict[str, TensorInfo]:
    path_inside(folder, INDEX_FILE, str(folder))
    weight_map = parse_index(read_small(index), str(index))
    tensors: dict[str, TensorInfo] = {}
    shards = {
        file: path_inside(folder, file, str(index)) for file in sorted(set(weight_map.values()))
    }
    for file, path in shards.items():
        if not path.exists():
            raise InputError(f"{index}: shard {file} is missing")
    for file, path in shards.items():
        add_shard(tensors, read_header(path), weight_map, file, str(index))
    check_index_complete(tensors, weight_map, str(index))
    return tensors


def path_inside(folder: Path, file: str, where: str) -> Path:
    """`folder/file`, which symbolic links must not lead out of the folder.

    The snapshot folders of a Hub cache consist of links into the `blobs` folder beside `snapshots`;
    these are the only outward links that are allowed.

    Args:
        folder: A checkpoint folder.
        file: The name of a file in it, which need not exist.
        where: Names the folder or the index in an error.

    Raises:
        InputError: The file is a link out of the folder, or a loop of links.
    """
    path = folder / file
    try:
        home, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise InputError(f"{where}: {file} cannot be resolved ({one_line(error)})") from None
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise InputError(f"{where}: {file} is a link that leads out of the checkpoint folder")
    return path

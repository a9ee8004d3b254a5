"""A local checkpoint folder: its config.json and the layout of its tensors."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.gemma3n import says_untied
from matformer_lab.parent.parent import Parent, build_parent, parent_of_candidates
from matformer_lab.parent.references import why_no_config
from matformer_lab.parent.weights.head import repeats_embeddings
from matformer_lab.parent.weights.headers import TensorInfo, read_header
from matformer_lab.parent.weights.links import path_inside
from matformer_lab.parent.weights.weight_files import WeightFiles, candidates, read_weight_files

TEMPLATES_FOLDER: Final = "additional_chat_templates"
"""Where transformers keeps the chat templates of a tokenizer that has several, as NAME.jinja."""


def open_folder(folder: Path, *, ref: str | None = None, name: str | None = None) -> Parent:
    """Open a local checkpoint folder.

    Args:
        folder: The folder.
        ref: The parent's `ref`; the folder as given if None.
        name: The parent's `name`; the folder's own name if None.

    Raises:
        InputError: The folder is not a whole Gemma 3n checkpoint, or cannot be read.
    """
    ref = ref or str(folder)
    try:
        config = read_config(folder)

        def build(weights: WeightFiles) -> Parent:
            return build_parent(
                ref=ref,
                name=name or folder.resolve().name,
                config=config,
                tensors=_read(folder, weights),
                folder=folder,
            )

        parent = parent_of_candidates(_candidates(folder), build, ref)
        if (
            parent.separate_head
            and not says_untied(config)
            and repeats_embeddings(folder, parent.tensors, parent.prefix)
        ):
            parent = replace(parent, separate_head=False)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None
    return parent


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder, as written.

    Raises:
        InputError: It is missing, too large or not a JSON object, or links out of the folder.
        OSError: The folder cannot be read.
    """
    path = path_inside(folder, "config.json", str(folder))
    if not path.exists():
        raise InputError(f"{folder}: {why_no_config(folder)}")
    return parse_config(read_small(path), str(path))


def parse_config(data: bytes, where: str) -> dict[str, Any]:
    """A config.json, its numbers as written; keys that nobody reads may hold NaN or Infinity.

    Raises:
        InputError: It is not a JSON object.
    """
    return strict_json(data, where, as_written=True)


def read_layout(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint folder by the name in its file.

    Where there are several sets of weight files, those that transformers would load: a single file
    before shards.

    Raises:
        InputError: There are no safetensors weights, a file is broken or links out of the folder,
            or the index and the shards disagree.
        OSError: The folder cannot be read.
    """
    return _read(folder, _candidates(folder)[0])


def _candidates(folder: Path) -> tuple[WeightFiles, ...]:
    names = [path.name for path in folder.iterdir()]
    try:
        found = candidates(names)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    if found:
        return found
    raise InputError(f"{folder}: {_why_no_weights(names)}")


_OTHER_WEIGHTS: Final = {
    (".task", ".litertlm", ".tflite"): "a bundle for phones is made from a checkpoint; give that",
    (".npz", ".h5", ".msgpack", ".ckpt"): "convert the weights that lie there to safetensors first",
    (".distcp",): "these are shards of torch's distributed checkpoints; save the model from them",
}
"""Files of weights that are not read, by how they end, and what to do."""


def _why_no_weights(names: list[str]) -> str:
    if any(name.endswith(".gguf") for name in names):
        return "holds a GGUF, which is made from a checkpoint; give the checkpoint in safetensors"
    if any(Path(name).suffix in (".bin", ".pt", ".pth") for name in names):
        return (
            "only pickle weights (.bin, .pt), which can run code when they are read; "
            "convert them to safetensors first"
        )
    for ends, what in _OTHER_WEIGHTS.items():
        if any(name.endswith(ends) for name in names):
            return f"no safetensors weights found; {what}"
    return "no safetensors weights found"


def _read(folder: Path, weights: WeightFiles) -> dict[str, TensorInfo]:
    where = str(folder / weights.index) if weights.index else str(folder)

    def header(file: str) -> dict[str, TensorInfo]:
        path = path_inside(folder, file, where)
        if not os.path.exists(path):  # noqa: PTH110 (Path's raises for too long a name)
            raise InputError(f"{where}: shard {file} is missing")
        return read_header(path)

    def index(file: str) -> bytes:
        return read_small(path_inside(folder, file, str(folder)))

    return read_weight_files(weights, header, index, str(folder))

"""The files of a checkpoint other than weights: config, tokenizer, card, manifest."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from matformer_lab.checkpoint.card import CARD_FILE, model_card
from matformer_lab.checkpoint.disk.intact import Digests
from matformer_lab.checkpoint.disk.shards import Shard, index_json
from matformer_lab.checkpoint.lineage import ancestors_of, link_of
from matformer_lab.checkpoint.manifest import MANIFEST_FILE, Manifest, digest_of
from matformer_lab.common.files.atomic import make_folder, write_atomic
from matformer_lab.common.files.written_json import written_json
from matformer_lab.common.version import __version__
from matformer_lab.parent.folder import TEMPLATES_FOLDER
from matformer_lab.parent.side_files import read_side_file
from matformer_lab.parent.weights.index import INDEX_FILE
from matformer_lab.parent.weights.links import path_inside
from matformer_lab.slicing.plan import Plan

_TOKENIZER_FILES: Final = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*.model", "generation_config.json", "chat_template*", "LICENSE*", "LICENCE*", "NOTICE*",
    "USE_POLICY*",
)  # fmt: skip

_PROCESSOR_FILES: Final = ("*processor_config.json",)

_EXCLUDED_SUFFIXES: Final = {".safetensors", ".bin", ".pt", ".pth", ".pkl", ".py"}
"""Weights and code, which are never copied, whatever the rest of their name."""


def read_side_files(plan: Plan) -> dict[str, bytes]:
    """The parent's files that are copied: tokenizer, processor, templates, licence.

    Args:
        plan: A plan of a local parent.

    Returns:
        The files' contents by name; a further chat template's is `additional_chat_templates/NAME`.

    Raises:
        InputError: When a file cannot be copied: it is a link that leads nowhere or out of the
            parent's folder, a pipe, a folder or a pointer of Git-LFS or git-annex, is too large, or
            is a tokenizer that is empty or damaged.
    """
    patterns = _TOKENIZER_FILES + (() if plan.text_only else _PROCESSOR_FILES)
    return _matching(plan.parent.local, patterns)


def read_tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The tokenizer, template and licence files of a folder, as `read_side_files` reads them."""
    return _matching(folder, _TOKENIZER_FILES)


def _matching(folder: Path, patterns: Sequence[str]) -> dict[str, bytes]:
    names = {
        path.name
        for path in folder.iterdir()
        if any(fnmatchcase(path.name, pattern) for pattern in patterns)
        and path.suffix.lower() not in _EXCLUDED_SUFFIXES
        # A folder of licences, say; one in place of a file has the file's name.
        and (path.suffix or not path.is_dir())
    }
    templates = folder / TEMPLATES_FOLDER
    if templates.is_dir():
        names |= {f"{TEMPLATES_FOLDER}/{path.name}" for path in templates.glob("*.jinja")}
    return {name: read_side_file(path_inside(folder, name, str(folder))) for name in sorted(names)}


def file_names(side_files: Iterable[str], shards: Sequence[Shard]) -> set[str]:
    """The names of all files of a checkpoint.

    Args:
        side_files: From `read_side_files`.
        shards: The weight files.
    """
    index = {INDEX_FILE} if len(shards) > 1 else set()
    others = {"config.json", CARD_FILE, MANIFEST_FILE}
    return {shard.file for shard in shards} | set(side_files) | others | index


def write_other_files(
    plan: Plan,
    side_files: Mapping[str, bytes],
    folder: Path,
    shards: Sequence[Shard],
    digests: Digests,
    base_model: str | None,
) -> None:
    """Write every file of a checkpoint that is not weights.

    Args:
        plan: What the checkpoint holds.
        side_files: From `read_side_files`.
        folder: The checkpoint's folder.
        shards: The weight files, for the index; one alone needs none.
        digests: The digests of all tensors, for the manifest.
        base_model: The parent's Hub id, for the card; None: what is known of it.
    """
    files = dict(side_files)
    files["config.json"] = (written_json(plan.config) + "\n").encode()
    files[CARD_FILE] = model_card(plan, base_model).encode()
    if len(shards) > 1:
        files[INDEX_FILE] = index_json(shards)
    link = link_of(plan)
    manifest = Manifest(
        matformer_lab=__version__,
        parent=link.parent,
        slice=link.slice,
        filled=link.filled,
        ancestors=ancestors_of(plan, link),
        text_only=plan.text_only,
        tensors=dict(sorted(digests.items())),
        # The card has no digest, because people edit it.
        files={n: digest_of(data) for n, data in sorted(files.items()) if n != CARD_FILE},
    ).sealed()
    files[MANIFEST_FILE] = manifest.as_json().encode()
    for name, data in files.items():
        make_folder((folder / name).parent)
        write_atomic(folder / name, data)

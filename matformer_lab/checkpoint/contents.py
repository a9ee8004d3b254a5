"""What a checkpoint holds besides weights: config, tokenizer, card, manifest."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from matformer_lab.checkpoint.card import CARD_FILE, model_card
from matformer_lab.checkpoint.disk.shard_writer import Digests
from matformer_lab.checkpoint.disk.shards import Shard, index_json
from matformer_lab.checkpoint.manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestParent,
    ManifestSlice,
    digest_of,
)
from matformer_lab.common.atomic import write_atomic
from matformer_lab.common.untrusted import read_small
from matformer_lab.common.version import __version__
from matformer_lab.parent.folder import path_inside
from matformer_lab.parent.index import INDEX_FILE
from matformer_lab.slicing.plan import Plan

_TOKENIZER_FILES: Final = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*.model", "generation_config.json", "chat_template*", "LICENSE*", "LICENCE*", "NOTICE*",
    "USE_POLICY*",
)  # fmt: skip


_PROCESSOR_FILES: Final = ("*processor_config.json",)


_NEVER: Final = {".safetensors", ".bin", ".pt", ".pth", ".pkl", ".py"}
"""Weights and code, whatever they are called."""


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

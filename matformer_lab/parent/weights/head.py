"""The LM head of a checkpoint: the embeddings, or a tensor of its own."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.untrusted import open_regular, read_exactly
from matformer_lab.gemma3n import EMBED_TOKENS, LM_HEAD, says_untied
from matformer_lab.parent.weights.headers import TensorInfo

_CHUNK_BYTES: Final = 8 << 20


def has_head(config: Mapping[str, Any], names: Collection[str], where: str) -> bool:
    """Whether a checkpoint has a head beside its embeddings, which need not differ from them.

    Args:
        config: The config.json.
        names: The published names of its tensors.
        where: Names the checkpoint in an error.

    Raises:
        InputError: The config says that there is one, and there is none.
    """
    if LM_HEAD in names:
        return True
    if says_untied(config):
        raise InputError(
            f"{where}: config.json says tie_word_embeddings: false, but there is no {LM_HEAD}; "
            "without it the head would be random. If the head is the embeddings, write true"
        )
    return False


def repeats_embeddings(folder: Path, tensors: Mapping[str, TensorInfo], prefix: str) -> bool:
    """Whether the head in a folder's files is the embeddings once more, byte for byte.

    Reading stops at the first difference. A model that was a pickle
    once often has both.

    Args:
        folder: The checkpoint's.
        tensors: By their published names.
        prefix: Of the text tensors' names.

    Raises:
        InputError: A file cannot be read.
    """
    head, embed = tensors[LM_HEAD], tensors[prefix + EMBED_TOKENS]
    if (head.dtype, head.shape) != (embed.dtype, embed.shape):
        return False
    one, other = folder / head.file, folder / embed.file
    mine, theirs = bytearray(_CHUNK_BYTES), bytearray(_CHUNK_BYTES)
    with open_regular(one) as file, open_regular(other) as other_file:
        for start in range(0, head.nbytes, _CHUNK_BYTES):
            size = min(_CHUNK_BYTES, head.nbytes - start)
            read_exactly(file, memoryview(mine)[:size], head.offset + start, one)
            read_exactly(other_file, memoryview(theirs)[:size], embed.offset + start, other)
            if mine[:size] != theirs[:size]:
                return False
    return True

"""The small files beside config and weights, checked before they are copied or used.

An empty or damaged tokenizer would otherwise be found out by whoever loads the slice.
"""

import json
from pathlib import Path
from typing import Final

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.files.untrusted import read_small

_SENTENCE_PIECES: Final = b"\x0a"
"""How a SentencePiece model begins: field 1 of its protobuf, the first piece."""
_REMEDY: Final = "download it again, or copy it from the model that this one was made from"


def read_side_file(path: Path) -> bytes:
    """The content of a tokenizer, a processor's settings, a chat template or a licence.

    Raises:
        InputError: As for `read_small`; or a file that should be JSON or a SentencePiece model is
            empty or something else.
    """
    data = read_small(path)
    if path.suffix in (".json", ".model") and not data:
        raise InputError(f"{path}: is empty; {_REMEDY}")
    if path.suffix == ".json":
        try:
            json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: is not JSON ({one_line(error)}); {_REMEDY}") from None
    if path.suffix == ".model" and not data.startswith(_SENTENCE_PIECES):
        raise InputError(f"{path}: is not a SentencePiece model; {_REMEDY}")
    return data

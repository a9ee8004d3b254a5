"""Loads a parent's tokenizer."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.paths import StrPath
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.parent.side_files import read_side_file
from matformer_lab.slicing.child_config import child_config
from matformer_lab.slicing.slice import Slice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_VOCABULARIES: Final = ("tokenizer.json", "tokenizer.model")
_SETTINGS: Final = "tokenizer_config.json"
_MAY_BE_THERE: Final = (
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""Further files that a live model and its tokenizer are made of."""
_FEWEST_TOKENS: Final = 16
"""Of a tokenizer without a vocabulary, transformers makes one of a few special tokens."""


def load_tokenizer(parent: Parent | StrPath) -> "PreTrainedTokenizerBase":
    """The parent's tokenizer, from its folder or the Hub (small files only).

    Args:
        parent: An opened parent, or what `open_parent` accepts.

    Raises:
        InputError: When the parent has no tokenizer files, or they cannot be read; or when
            transformers refuses the parent's config.

    Examples:
        >>> import matformer_lab as ml
        >>> tokenizer = ml.load_tokenizer("tiny")
        >>> tokenizer("The cat").input_ids[0] == tokenizer.bos_token_id
        True
    """
    from transformers import AutoTokenizer

    parent = open_parent(parent)
    if parent.folder is not None:
        _check_files(parent.folder, parent.ref)
    check_config(parent)
    try:
        if parent.folder is not None:
            tokenizer = AutoTokenizer.from_pretrained(parent.folder, local_files_only=True)
        else:
            tokenizer = AutoTokenizer.from_pretrained(parent.name, revision=parent.revision)
    except Exception as error:  # of many types, none of them documented
        raise InputError(
            f"{parent.ref}: the tokenizer cannot be loaded ({one_line(error)}); scoring needs "
            "tokenizer.json and tokenizer_config.json next to the weights"
        ) from None
    if len(tokenizer) < _FEWEST_TOKENS:
        raise _missing(parent.ref, [_VOCABULARIES[0]])
    return tokenizer


def _check_files(folder: Path, ref: str) -> None:
    """Raise `InputError` if files that scoring needs are missing, or something else in their place.

    transformers then makes up a tokenizer that knows no word, or another one than the model's.
    """
    paths = [folder / name for name in (*_VOCABULARIES, _SETTINGS, *_MAY_BE_THERE)]
    there = [path.name for path in paths if path.exists() or path.is_symlink()]
    for name in there:
        read_side_file(folder / name)
    missing = [] if set(_VOCABULARIES) & set(there) else [_VOCABULARIES[0]]
    missing += [] if _SETTINGS in there else [_SETTINGS]
    if missing:
        raise _missing(ref, missing)


def _missing(ref: str, files: list[str]) -> InputError:
    return InputError(
        f"{ref}: the tokenizer cannot be loaded: there is no {' and no '.join(files)}; copy "
        "what is missing from the model that this one was made from"
    )


def check_config(parent: Parent) -> None:
    """Raise `InputError` if the installed transformers refuses the parent's text config."""
    import transformers

    whole = Slice("full", parent.text.intermediate_size)
    try:
        transformers.Gemma3nTextConfig.from_dict(child_config(parent, whole, text_only=True))
    except Exception as error:  # of many types, none of them documented
        raise InputError(
            f"{parent.ref}: config.json: transformers {transformers.__version__} refuses it "
            f"({one_line(error)}), so it cannot be scored"
        ) from None

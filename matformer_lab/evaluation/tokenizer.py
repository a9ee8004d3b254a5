"""Loads a parent's tokenizer."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.untrusted import read_small
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.child_config import child_config
from matformer_lab.slicing.slice import Slice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_VOCABULARIES: Final = ("tokenizer.json", "tokenizer.model")
_SETTINGS: Final = "tokenizer_config.json"


def load_tokenizer(parent: Parent) -> "PreTrainedTokenizerBase":
    """The parent's tokenizer, from its folder or the Hub (small files only).

    Args:
        parent: From `open_parent`.

    Raises:
        InputError: When the parent has no tokenizer files, or they cannot be read; or when
            transformers refuses the parent's config.

    Examples:
        >>> import matformer_lab as ml
        >>> tokenizer = ml.load_tokenizer(ml.open_parent("tiny"))
        >>> tokenizer("The cat").input_ids[0] == tokenizer.bos_token_id
        True
    """
    from transformers import AutoTokenizer

    if parent.folder is not None:
        _check_files(parent.folder, parent.ref)
    check_config(parent)
    try:
        if parent.folder is not None:
            return AutoTokenizer.from_pretrained(parent.folder, local_files_only=True)
        return AutoTokenizer.from_pretrained(parent.name, revision=parent.revision)
    except Exception as error:  # of many types, none of them documented
        raise InputError(
            f"{parent.ref}: the tokenizer cannot be loaded ({one_line(error)}); scoring needs "
            "tokenizer.json and tokenizer_config.json next to the weights"
        ) from None


def _check_files(folder: Path, ref: str) -> None:
    """Without its files, transformers makes up a tokenizer that knows no word."""
    there = [name for name in _VOCABULARIES if (folder / name).exists()]
    for name in (*there, *(n for n in (_SETTINGS,) if (folder / n).exists())):
        read_small(folder / name)  # names what is no file, or is a Git-LFS pointer
    missing = [*([] if there else [_VOCABULARIES[0]])]
    missing += [] if (folder / _SETTINGS).exists() else [_SETTINGS]
    if missing:
        raise InputError(
            f"{ref}: has no {' and no '.join(missing)}, which scoring needs; copy them from the "
            "model that it was made from"
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

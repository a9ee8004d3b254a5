"""Loads a parent's tokenizer."""

from typing import TYPE_CHECKING

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.parent.parent import Parent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(parent: Parent) -> "PreTrainedTokenizerBase":
    """The parent's tokenizer, from its folder or the Hub (small files only).

    Args:
        parent: From `open_parent`.

    Raises:
        InputError: When the parent has no tokenizer files, or they cannot be read.

    Examples:
        >>> import matformer_lab as ml
        >>> tokenizer = ml.load_tokenizer(ml.open_parent("tiny"))
        >>> tokenizer("The cat").input_ids[0] == tokenizer.bos_token_id
        True
    """
    from transformers import AutoTokenizer

    try:
        if parent.folder is not None:
            return AutoTokenizer.from_pretrained(parent.folder, local_files_only=True)
        return AutoTokenizer.from_pretrained(parent.name, revision=parent.revision)
    except Exception as error:  # of many types, none of them documented
        raise InputError(
            f"{parent.ref}: the tokenizer cannot be loaded ({one_line(error)}); scoring needs "
            "tokenizer.json and tokenizer_config.json next to the weights"
        ) from None

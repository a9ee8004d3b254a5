"""The parent's tokenizer."""

from typing import TYPE_CHECKING

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.parent.parent import Parent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(parent: Parent) -> "PreTrainedTokenizerBase":
    """The parent's tokenizer, from its folder or (small files only) from the Hub."""
    from transformers import AutoTokenizer

    try:
        if parent.folder is not None:
            return AutoTokenizer.from_pretrained(parent.folder, local_files_only=True)
        return AutoTokenizer.from_pretrained(parent.name, revision=parent.revision)
    except Exception as error:  # many kinds, none of them documented
        raise InputError(
            f"{parent.ref}: its tokenizer cannot be loaded ({one_line(error)}); scoring needs "
            "tokenizer.json and tokenizer_config.json beside the weights"
        ) from None

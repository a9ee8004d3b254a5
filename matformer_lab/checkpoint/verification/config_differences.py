"""The differences between two configs."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from matformer_lab.gemma3n import (
    OLD_ROPE,
    TextConfig,
    is_notebooks,
    read_text_config,
    rope_numbers,
    text_part,
)

_ABSENT: Final = object()


def config_problems(
    expected: Mapping[str, Any], found: Mapping[str, Any], folder: Path
) -> Iterable[str]:
    """The differences between a checkpoint's config and what it should be, and whose they are.

    Args:
        expected: The config as it should be.
        found: The checkpoint's.
        folder: The checkpoint's.

    Yields:
        A line for each.
    """
    by_notebook = is_notebooks(found) and not is_notebooks(expected)
    if by_notebook:
        yield (
            "config.json: written by Google's notebook: transformers 4.57 and newer refuse it; "
            f"`matformer-lab slice {folder} --slice full --out FIXED` writes a right one"
        )
    # The notebook writes the integer 0 for 0.0, which is what the line above is about.
    yield from config_differences(expected, found, same_numbers=by_notebook)


def config_differences(
    expected: Any, found: Any, at: str = "config.json", *, same_numbers: bool = False
) -> Iterable[str]:
    """Every key at which two configs differ.

    Args:
        expected: The config as it should be, or a value inside it.
        found: The config as it is, or the value at the same place.
        at: Where the two values are, for the messages.
        same_numbers: Whether `0` is as good as `0.0`; transformers 5 refuses some.

    Yields:
        Messages like `config.json: text_config.x is 1, expected 2`.
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted(expected.keys() | found.keys()):
            where = f"{at}: {key}" if at == "config.json" else f"{at}.{key}"
            yield from config_differences(
                expected.get(key, _ABSENT),
                found.get(key, _ABSENT),
                where,
                same_numbers=same_numbers,
            )
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for position, (wanted, got) in enumerate(zip(expected, found, strict=True)):
            yield from config_differences(
                wanted, got, f"{at}[{position}]", same_numbers=same_numbers
            )
    elif isinstance(expected, list) and isinstance(found, list):
        yield f"{at} has {len(found)} values, expected {len(expected)}"
    elif not _equal(expected, found, same_numbers):
        yield f"{at} is {_shown(found)}, expected {_shown(expected)}"


def _equal(expected: Any, found: Any, same_numbers: bool) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        return expected == found or (math.isnan(expected) and math.isnan(found))
    if same_numbers and {type(expected), type(found)} == {int, float}:
        return bool(expected == found)
    return type(expected) is type(found) and bool(expected == found)


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else f"{value!r:.80}"


_SAYS_NOTHING_OF_LOGITS: Final = frozenset(
    {
        *("transformers_version", "torch_dtype", "dtype", "architectures", "_name_or_path"),
        *("use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "rope_parameters"),
        *("intermediate_size", "layer_types", "activation_sparsity_pattern", "text_config"),
    }
)
"""Keys that tools rewrite, and those that `same_model` compares by what they mean."""


def same_model(expected: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether two configs describe one model, however they were written.

    transformers drops keys when it saves, adds others with their defaults and writes
    `rope_parameters`: compared are the sizes and layers, the rope numbers, and whatever keys both
    configs have.

    Args:
        expected: A config, checked.
        found: Another one.

    Raises:
        InputError: When `found` is not a Gemma 3n's.
    """
    ours, theirs = (read_text_config(config, "config.json") for config in (expected, found))
    fields = set(TextConfig.model_fields) - {"tie_word_embeddings"}
    return (
        all(getattr(ours, key) == getattr(theirs, key) for key in fields)
        and _rope(text_part(expected)) == _rope(text_part(found))
        and _agree(expected, found)
        and _agree(text_part(expected), text_part(found))
    )


def _rope(text: Mapping[str, Any]) -> Mapping[str, Any]:
    """The two rope numbers, wherever they stand."""
    there = {key: text[key] for key in OLD_ROPE if text.get(key) is not None}
    return there | rope_numbers(text)


def _agree(ours: Any, theirs: Any) -> bool:
    """Whether two values are equal, of mappings those that both have."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        both = (ours.keys() & theirs.keys()) - _SAYS_NOTHING_OF_LOGITS
        return all(_agree(ours[key], theirs[key]) for key in both)
    return ours is None or theirs is None or bool(ours == theirs)

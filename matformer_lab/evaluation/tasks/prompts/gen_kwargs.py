"""Arguments of generation, as `lm_eval --gen_kwargs` takes them: checked before anything runs."""

import difflib
import math
from collections.abc import Mapping
from typing import Any, Final

from matformer_lab.common.errors import InputError

LENGTHS: Final = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""lm-eval's names for the most tokens to generate; the first that is given counts."""
_STOP: Final = "until"
_NOT_OURS: Final = frozenset(
    {
        "input_ids", "attention_mask", "pad_token_id", "use_cache", "stopping_criteria",
        "stop_strings", "num_return_sequences", "return_dict_in_generate", "output_scores",
        "output_logits", "output_attentions", "output_hidden_states", "is_assistant",
    }
)  # fmt: skip
"""What lm-eval passes to `generate` itself, or could not read the answers of."""
# The smallest and largest value of the usual arguments; True where it has to be whole.
_RANGES: Final[Mapping[str, tuple[float, float, bool]]] = {
    **dict.fromkeys(LENGTHS, (1, math.inf, True)),
    "num_beams": (1, math.inf, True),
    "top_k": (0, math.inf, True),
    "no_repeat_ngram_size": (0, math.inf, True),
    "temperature": (0, math.inf, False),
    "repetition_penalty": (0, math.inf, False),
    "top_p": (0, 1, False),
    "min_p": (0, 1, False),
    "typical_p": (0, 1, False),
}


def check_gen_kwargs(given: Mapping[str, Any], where: str) -> None:
    """Check names and values.

    Args:
        given: By name.
        where: The key that they are written under, for the error.

    Raises:
        InputError: For a name that neither lm-eval nor transformers takes, with the nearest that
            they do, or a value that is not allowed.
    """
    if not given:
        return
    from transformers import GenerationConfig

    defaults: Any = GenerationConfig
    own = {name for name in vars(defaults()) if not name.startswith("_")}
    known = {*own, *LENGTHS, _STOP} - _NOT_OURS - {"max_length", "transformers_version"}
    for name, value in given.items():
        if name in _NOT_OURS:
            raise InputError(f"{where}: {name} is set by lm-eval itself; leave it out")
        if name == "max_length":
            raise InputError(
                f"{where}: max_length counts the prompt too; give max_gen_toks instead"
            )
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{where}: {name!r} is not an argument of generation{hint}")
        if wanted := _wanted(name, value):
            raise InputError(f"{where}: {name} is {wanted} (got {value!r})")


def set_gen_kwargs(task: Any, given: Mapping[str, Any]) -> bool:
    """Set a task's arguments of generation as `lm_eval --gen_kwargs` does.

    Args:
        task: lm-eval's task object.
        given: They replace those of the same name in the task's file.

    Returns:
        Whether the task generates text at all; nothing is set otherwise.
    """
    if task.get_config("output_type") != "generate_until":
        return False
    if given:
        task.set_config(key="generation_kwargs", value=dict(given), update=True)
    return True


def _wanted(name: str, value: Any) -> str | None:
    """What a value should have been; None where it is allowed."""
    if name == _STOP:
        texts = value if isinstance(value, list) else [value]
        return (
            None if all(isinstance(text, str) for text in texts) else "a text, or a list of texts"
        )
    if name == "do_sample":
        return None if isinstance(value, bool) else "true or false"
    if name not in _RANGES:
        return None
    least, most, whole = _RANGES[name]
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if is_number and least <= value <= most:
        return None
    kind = "a whole number" if whole else "a number"
    return f"{kind} from {least:g} to {most:g}" if most < math.inf else f"{kind}, {least:g} or more"

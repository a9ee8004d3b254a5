"""Generation as lm-eval asks for it: what its `HFLM` reads out of a request, word for word.

A request's text ends where `HFLM` with a batch of one ends it: at an end-of-text token, or where
one of its stop sequences appears among the last tokens, special ones included. (In larger batches
`HFLM` goes on until every row has ended, and then cuts; what it cuts at is what is left of the text
without special tokens, so that an `until` of `<end_of_turn>` may be missed.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from matformer_lab.common.errors import InputError
from matformer_lab.generation.sampling import Sampling

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

_OURS: Final = {"do_sample", "temperature", "top_k", "top_p", "min_p"}
_HARMLESS: Final = {
    "bos_token_id",
    "cache_implementation",
    "eos_token_id",
    "max_length",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "return_dict_in_generate",
    "transformers_version",
    "use_cache",
    "_from_model_config",
}
"""Of a generation config: what `HFLM` overrides, or what changes no token of a decoder."""
_NEUTRAL: Final = {
    "encoder_no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "typical_p": 1.0,
}
"""Values that ask for nothing."""
_TOP_K: Final = 50
"""transformers' own, where neither the request nor the checkpoint has one
(`GenerationConfig._get_default_generation_params`)."""
_LOOKBACK: Final = 2
"""How many more tokens than a stop sequence has `HFLM` looks at, because it may come as others
(`MultiTokenEOSCriteria`)."""


@dataclass(frozen=True)
class Settings:
    """What a request asks for besides its prompt.

    Attributes:
        until: Stop sequences, the end of text among them.
        max_gen_toks: The most tokens of the text.
        sampling: How tokens are drawn; None: the likeliest is taken.
    """

    until: tuple[str, ...]
    max_gen_toks: int
    sampling: Sampling | None


def settings_of(
    gen_kwargs: Mapping[str, Any], defaults: GenerationConfig, *, eos: str, max_gen_toks: int
) -> Settings | None:
    """What a request asks for, with what a checkpoint's generation config adds to it.

    Args:
        gen_kwargs: The request's.
        defaults: The model's.
        eos: The end-of-text token as text.
        max_gen_toks: Where the request does not say.

    Returns:
        None where it asks for anything but greedy or sampled tokens (beams, penalties).

    Raises:
        InputError: When tokens are to be drawn without a temperature.
    """
    kwargs: dict[str, Any] = dict(normalize_gen_kwargs(dict(gen_kwargs), max_gen_toks))
    until = handle_stop_sequences(kwargs.pop("until"), eos=eos)
    most = int(kwargs.pop("max_gen_toks"))
    do_sample = kwargs.pop("do_sample")
    temperature = float(kwargs.pop("temperature", 0.0))
    extra = defaults.to_diff_dict()
    extra = {key: value for key, value in extra.items() if key not in _HARMLESS} | kwargs
    if any(key not in _OURS and not _asks_nothing(key, value) for key, value in extra.items()):
        return None
    if not do_sample:
        return Settings(tuple(until), most, None)
    if temperature <= 0:
        raise InputError(
            "gen_kwargs: do_sample draws tokens, which needs a `temperature` above 0; set one, or "
            "do_sample: false"
        )

    def asked(key: str, otherwise: Any) -> Any:
        for value in (kwargs.get(key), getattr(defaults, key, None)):
            if value is not None:
                return value
        return otherwise

    sampling = Sampling(
        temperature=temperature,
        top_k=int(asked("top_k", _TOP_K)),
        top_p=float(asked("top_p", 1.0)),
        min_p=asked("min_p", None),
    )
    return Settings(tuple(until), most, sampling)


def _asks_nothing(key: str, value: Any) -> bool:
    return value is None or (key in _NEUTRAL and value == _NEUTRAL[key])


class Ending:
    """Whether a text ends at its last token.

    Args:
        tokenizer: The model's.
        until: Stop sequences.
        end_ids: End-of-text tokens.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, until: Sequence[str], end_ids: Sequence[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._end_ids = frozenset(end_ids)
        self._stops = [
            (stop, len(tokenizer.encode(stop, add_special_tokens=False)) + _LOOKBACK)
            for stop in until
        ]
        self._last_chars = {stop[-1] for stop in until if stop}
        self._always = any(not stop for stop in until)
        self._may_end: dict[int, bool] = {}

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether a text ends here, given its tokens so far; asked after every token."""
        newest = tokens[-1]
        if newest in self._end_ids:
            return True
        if newest not in self._may_end:
            self._may_end[newest] = self._has_last_char(newest)
        if not self._may_end[newest]:
            return False
        by_length: dict[int, str] = {}
        for stop, length in self._stops:
            if length not in by_length:
                by_length[length] = self._decoded(tokens[-length:])
            if stop in by_length[length]:
                return True
        return False

    def _has_last_char(self, token: int) -> bool:
        """Whether a stop sequence may be complete after this token: decoding takes time."""
        text = self._decoded([token]) + str(self._tokenizer.convert_ids_to_tokens(token))
        # Part of a character that takes several tokens decodes to the replacement character.
        return self._always or "\ufffd" in text or any(each in text for each in self._last_chars)

    def _decoded(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens)))


def text_of(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase, until: Sequence[str]) -> str:
    """A text without its special tokens, cut where the first stop sequence begins."""
    written = tokenizer.decode(list(tokens), skip_special_tokens=True)
    cut: str = postprocess_generated_text(str(written), list(until), think_end_token=None)
    return cut


def end_ids(defaults: GenerationConfig) -> list[int]:
    """The end-of-text tokens of a generation config."""
    ids = defaults.eos_token_id
    if ids is None:
        return []
    return [int(each) for each in ids] if isinstance(ids, list) else [int(ids)]

"""The prefix-sharing scorer as an lm-eval model.

Log-likelihoods and texts are computed here. All else is lm-eval's `HFLM` over the same model: the
encoding of texts, rolling windows, chat templates, and generation with beams or penalties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from lm_eval.models.huggingface import HFLM

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.finite import check_finite, not_finite_text
from matformer_lab.evaluation.models.generation import (
    Ending,
    Settings,
    end_ids,
    settings_of,
    text_of,
)
from matformer_lab.generation.decoding import NotFiniteLogitsError, generate
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.slice_scoring import Answer, score_slices

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import Gemma3nForCausalLM, PreTrainedTokenizerBase

_ENCODED_AT_ONCE: Final = 512
"""Requests: their texts' tokens take 36 bytes each while they are encoded."""


class PrefixScorer(HFLM):  # type: ignore[misc]
    """An lm-eval model that scores requests packed by their common prefixes.

    Texts are those of `HFLM` with a batch of one; drawn ones depend on `seed` and the prompt alone.
    Answers equal `HFLM`'s up to rounding, with one exception. If the same text occurs twice, split
    into context and continuation at two different places, lm-eval 0.4.13 reads the shorter
    continuation at wrong positions; with `logits_cache=False` it does not.

    Args:
        model: A text Gemma 3n in eval mode, with `sdpa` attention: a live slice, for instance.
        tokenizer: The model's.
        batch_tokens: The most tokens of a batch, and of what a packed row has beyond its first
            text; None chooses by free memory.
        max_length: Longest input in tokens; longer ones lose their left end. None is the model's.
        batch_size: Requests in one forward pass of rolling windows, and of generation that lm-eval
            does.
        seed: Of texts that are drawn.
        answers: Known answers by (context, continuation), as `score_slices` computes them for
            several slices at once. Only other requests run the model.
        progress: Called with (requests done, requests in all) after every layer, or every token of
            a text; a batch that is half done counts as half of its requests.

    Raises:
        ValueError: From `loglikelihood`, for a continuation that is empty or longer than
            `max_length`, or a model whose attention is not `sdpa`.
        InputError: From `loglikelihood`, for transformers older than 5.6.

    Examples:
        >>> import matformer_lab as ml
        >>> elastic = ml.ElasticParent.load("tiny")
        >>> lm = ml.PrefixScorer(elastic.live("e2b"), ml.load_tokenizer(elastic.parent))

        It takes the place of lm-eval's own model:

        >>> import lm_eval
        >>> lm_eval.simple_evaluate(lm, tasks=["hellaswag"])  # doctest: +SKIP

        or answers single requests:

        >>> from lm_eval.api.instance import Instance
        >>> request = Instance("loglikelihood", {}, ("The cat", " sat"), 0)
        >>> lm.loglikelihood([request])
        [Answer(logprob=-..., is_greedy=False)]
    """

    def __init__(
        self,
        model: Gemma3nForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        batch_size: int | str = 8,
        seed: int = 1234,
        answers: Mapping[tuple[str, str], Answer] | None = None,
        progress: Callable[[float, int], None] = lambda _done, _count: None,
    ) -> None:
        self._encoded: dict[str, list[int]] = {}
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            max_length=max_length,
            batch_size=batch_size,
            add_bos_token=True,
        )
        self._budget = None if batch_tokens is None else TokenBudget(batch_tokens)
        self._known = dict(answers or {})
        self._progress = progress
        self._seed = seed

    def encode(self, instances: Sequence[Instance]) -> list[Request]:
        """Encode log-likelihood requests as lm-eval does, once for any number of slices.

        Raises:
            ValueError: For a continuation that is empty or longer than `max_length`.
        """
        # One object per id: a text then takes 8 bytes per token, not 36.
        same: dict[int, int] = {}

        def shared(ids: Sequence[int]) -> list[int]:
            return [same.setdefault(each, each) for each in ids]

        requests = []
        for first in range(0, len(instances), _ENCODED_AT_ONCE):
            pairs = [instance.args for instance in instances[first : first + _ENCODED_AT_ONCE]]
            with self._encoded_at_once(pairs):
                for pair in pairs:
                    context, continuation = self._encode(*pair)
                    requests.append(
                        Request.of(shared(context), shared(continuation), self.max_length)
                    )
        return requests

    @contextmanager
    def _encoded_at_once(self, pairs: Sequence[tuple[str, str]]) -> Iterator[None]:
        """Within it, `tok_encode` knows what `_encode_pair` asks for.

        A fast tokenizer encodes many texts on all cores, and a context once for all its endings.
        """
        bos = self.tokenizer.decode(self.prefix_token_id)
        texts = {text: None for context, _ in pairs if (text := context.rstrip())}
        texts |= dict.fromkeys("".join(pair) for pair in pairs if pair[0])
        # One that starts with a BOS of its own gets no other.
        wanted = [text for text in texts if not text.startswith(bos)]
        if wanted:
            encoded = self.tokenizer(wanted, add_special_tokens=True, return_attention_mask=False)
            self._encoded = dict(zip(wanted, encoded["input_ids"], strict=True))
        try:
            yield
        finally:
            self._encoded = {}

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """See `HFLM`."""
        if add_special_tokens is None and not left_truncate_len and string in self._encoded:
            return self._encoded[string]
        found: list[int] = super().tok_encode(
            string, add_special_tokens, left_truncate_len, **kwargs
        )
        return found

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """One answer per request, each a (context, continuation)."""
        new = [request for request in requests if request.args not in self._known]
        answers = self._known | dict(
            zip((request.args for request in new), self._score(self.encode(new)), strict=True)
        )
        dtype = self.model.dtype  # transformers looks through the parameters for it
        for request in requests:
            logprob, _ = answers[request.args]
            check_finite(logprob, task=request.task_name, item=request.doc_id, dtype=dtype)
        return [answers[request.args] for request in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One text per request, each a (context, generation arguments).

        Raises:
            NotFiniteError: When the logits of a next token are not finite.
            InputError: When the arguments leave no room for a prompt, or ask for no tokens, or to
                draw them without a temperature.
        """
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        groups: dict[Settings | None, list[int]] = {}
        for number, request in enumerate(requests):
            settings = settings_of(
                request.args[1],
                self.model.generation_config,
                eos=eos,
                max_gen_toks=self.max_gen_toks,
            )
            groups.setdefault(settings, []).append(number)
        texts: dict[int, str] = {}
        for settings, numbers in groups.items():
            some = [requests[number] for number in numbers]
            before = len(texts)

            def progress(
                done: int, count: int, before: int = before, here: int = len(some)
            ) -> None:
                self._progress(before + here * done / count, len(requests))

            if settings is None:
                made = super().generate_until(some, disable_tqdm=disable_tqdm)
            else:
                made = self._generate(some, settings, progress)
            texts |= zip(numbers, made, strict=True)
        return [texts[number] for number in range(len(requests))]

    def _generate(
        self, requests: Sequence[Instance], settings: Settings, progress: Callable[[int, int], None]
    ) -> list[str]:
        room = self.max_length - settings.max_gen_toks
        if not 0 < room < self.max_length:
            raise InputError(
                f"tasks: {requests[0].task_name} asks for {settings.max_gen_toks} tokens, and the "
                f"model reads {self.max_length} with the prompt; set gen_kwargs: max_gen_toks to a "
                "number between"
            )
        defaults = self.model.generation_config
        try:
            made = generate(
                self.model,
                [self.tok_encode(request.args[0], left_truncate_len=room) for request in requests],
                max_new_tokens=settings.max_gen_toks,
                is_done=Ending(self.tokenizer, settings.until, end_ids(defaults)),
                sampling=settings.sampling,
                seed=self._seed,
                progress=progress,
            )
        except NotFiniteLogitsError as error:
            request = requests[error.prompt]
            raise not_finite_text(
                task=request.task_name, item=request.doc_id, dtype=self.model.dtype
            ) from None
        return [text_of(tokens, self.tokenizer, settings.until) for tokens in made]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[Answer]:
        """Called by lm-eval's rolling log-likelihood, with the windows of its texts."""
        windows = [
            Request.of(context, continuation, self.max_length)
            for _, context, continuation in requests
        ]
        return score_slices({"": self.model}, windows, budget=self._budget)[""]

    def _score(self, requests: Sequence[Request]) -> list[Answer]:
        if not requests:
            return []
        answers = score_slices(
            {"": self.model}, requests, budget=self._budget, progress=self._progress
        )
        return answers[""]

    def _encode(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """`TemplateLM.loglikelihood`'s encoding: an empty context becomes the prefix token."""
        if context:
            pair: tuple[list[int], list[int]] = self._encode_pair(context, continuation)
            return pair
        tokens: list[int] = self.tok_encode(continuation, add_special_tokens=False)
        if tokens[:1] == [self.prefix_token_id]:
            return tokens[:1], tokens[1:]
        return [self.prefix_token_id], tokens

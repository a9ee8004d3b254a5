"""The prefix-sharing scorer as an lm-eval model, and its check against lm-eval's own.

Everything but log-likelihoods is lm-eval's `HFLM` over the same model: how a text is encoded,
rolling windows, generation, chat templates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.models.huggingface import HFLM

from matformer_lab.evaluation.finite import check_finite
from matformer_lab.scoring.packing import Request
from matformer_lab.scoring.slice_scoring import Answer, score_slices
from matformer_lab.scoring.token_budget import TokenBudget

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import Gemma3nForCausalLM, PreTrainedTokenizerBase


class PrefixScorer(HFLM):  # type: ignore[misc]
    """A text Gemma 3n in eval mode that scores requests packed by their common prefixes.

    Answers are `HFLM`'s up to rounding, but for one case: where the same text comes twice, split
    into context and continuation in two places, lm-eval 0.4.13 reads the shorter continuation at
    wrong positions (it does not with `logits_cache=False`).

    Args:
        batch_tokens: Of a batch, and of what a row adds to its first text; None chooses by memory.
        max_length: Longest input in tokens; longer ones lose their left end. None: the model's.
        batch_size: Of lm-eval's own generation.
        answers: Known answers by (context, continuation), as `score_slices` gave them for several
            slices at once. Only requests that are not among them run the model.
        progress: Called with (requests done, requests in all).

    Examples:
        >>> import matformer_lab as ml
        >>> elastic = ml.ElasticParent.load("tiny")
        >>> lm = ml.PrefixScorer(elastic.live("e2b"), ml.load_tokenizer(elastic.parent))
        >>> lm_eval.simple_evaluate(model=lm, tasks=["boolq"])  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Gemma3nForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        batch_size: int | str = 8,
        answers: Mapping[tuple[str, str], Answer] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
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

    def encode(self, instances: Sequence[Instance]) -> list[Request]:
        """Log-likelihood requests as lm-eval encodes them: once, for any number of slices."""
        # One object for each id: a text then takes 8 bytes a token, not 36.
        same: dict[int, int] = {}

        def shared(ids: Sequence[int]) -> list[int]:
            return [same.setdefault(each, each) for each in ids]

        pairs = (self._encode(*instance.args) for instance in instances)
        return [
            Request.of(shared(context), shared(continuation), self.max_length)
            for context, continuation in pairs
        ]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """(log-probability, is greedy) of each (context, continuation)."""
        new = [request for request in requests if request.args not in self._known]
        answers = self._known | dict(
            zip((request.args for request in new), self._score(self.encode(new)), strict=True)
        )
        for request in requests:
            logprob, _ = answers[request.args]
            task, item = request.task_name, request.doc_id
            check_finite(logprob, task=task, item=item, dtype=self.model.dtype)
        return [answers[request.args] for request in requests]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[Answer]:
        """What lm-eval's rolling log-likelihood calls, with the windows of its texts."""
        return self._score(
            [
                Request.of(context, continuation, self.max_length)
                for _, context, continuation in requests
            ]
        )

    def _score(self, requests: Sequence[Request]) -> list[Answer]:
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

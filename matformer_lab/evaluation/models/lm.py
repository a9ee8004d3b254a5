"""A live slice as an lm-eval model."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.quiet import quiet_lm_eval

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM, PreTrainedTokenizerBase

    from matformer_lab.evaluation.tasks.entry import Scorer
    from matformer_lab.scoring.slice_scoring import Answer


_CPU_LOGITS_BYTES: Final = 1 << 31
"""On a CPU, what a batch's logits and their log-softmax may take, which HFLM holds at once."""
_TYPICAL_TOKENS: Final = 1024
"""Tokens of a request for which that has to suffice."""
_LARGEST_CPU_BATCH: Final = 32


def make_lm(
    model: "Gemma3nForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    scorer: "Scorer",
    batch_size: int | str = "auto",
    answers: "Mapping[tuple[str, str], Answer] | None" = None,
    seed: int = 1234,
    progress: Callable[[float, int], None] = lambda _done, _count: None,
) -> Any:
    """The live model as an lm-eval `LM` that puts one BOS before every prompt.

    Args:
        model: A live slice.
        tokenizer: The parent's.
        scorer: Who computes log-likelihoods and texts.
        batch_size: Requests in one forward pass, for what lm-eval's own backend computes.
        answers: Answers that the `prefix` scorer already has, by (context, continuation).
        seed: Of texts that the `prefix` scorer draws.
        progress: Of the `prefix` scorer: called with (requests done, requests in all).

    Raises:
        InputError: When the tokenizer puts no BOS or two before a prompt.
    """
    if batch_size == "auto" and model.device.type == "cpu":
        batch_size = cpu_batch_size(model.config.vocab_size)
    with quiet_lm_eval():
        if scorer == "prefix":
            from matformer_lab.evaluation.models.prefix_scorer import PrefixScorer

            lm: Any = PrefixScorer(
                model,
                tokenizer,
                batch_size=batch_size,
                answers=answers,
                seed=seed,
                progress=progress,
            )
        else:
            from lm_eval.models.huggingface import HFLM

            lm = HFLM(
                pretrained=model,
                tokenizer=tokenizer,
                backend="causal",
                batch_size=batch_size,
                add_bos_token=True,
            )
    for method in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        setattr(lm, method, partial(getattr(lm, method), disable_tqdm=True))
    check_bos(lm)
    return lm


def cpu_batch_size(vocab_size: int) -> int:
    """Requests in one forward on a CPU, where lm-eval's own search costs more than it gains."""
    fits = _CPU_LOGITS_BYTES // (2 * 4 * vocab_size * _TYPICAL_TOKENS)
    return max(1, min(_LARGEST_CPU_BATCH, fits))


def check_bos(lm: Any) -> int:
    """The BOS id, after a check that an encoded prompt has exactly one, in front.

    Raises:
        InputError: When it has none, or two.
    """
    bos = lm.tokenizer.bos_token_id
    encoded = lm.tok_encode("Question: which one?")
    if bos is None or encoded[:1] != [bos] or encoded.count(bos) != 1:
        raise InputError(
            f"the parent's tokenizer starts a prompt with {encoded[:2]} instead of exactly one BOS "
            f"({bos}), so scores would be wrong; check the post-processor in tokenizer.json"
        )
    return int(bos)

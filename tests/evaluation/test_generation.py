"""Generation as lm-eval asks for it: settings, where texts end, and texts, against `HFLM`'s own."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import stop_sequences_criteria
from transformers import GenerationConfig

from matformer_lab import tiny
from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.models.generation import Ending, Settings, settings_of, text_of
from matformer_lab.evaluation.models.prefix_scorer import PrefixScorer
from matformer_lab.generation.sampling import Sampling
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from tests.evaluation.test_prefix_scorer import instances, tokenizer

EOS = "<eos>"


def settings(gen_kwargs: dict[str, Any], **defaults: Any) -> Settings | None:
    config = GenerationConfig(**defaults)  # type: ignore[no-untyped-call]
    return settings_of(gen_kwargs, config, eos=EOS, max_gen_toks=256)


def test_what_a_request_asks_for() -> None:
    assert settings({}) == Settings((EOS,), 256, None)
    assert settings({"until": "\n", "max_new_tokens": 3}) == Settings(("\n", EOS), 3, None)
    # A checkpoint's own config, as Google writes it and as transformers saves it.
    google = {"do_sample": True, "top_k": 64, "top_p": 0.95, "cache_implementation": "hybrid"}
    assert settings({"do_sample": False}, **google) == Settings((EOS,), 256, None)
    saved = {"use_cache": True, "output_attentions": False, "_from_model_config": True}
    assert settings({"until": []}, **saved) == Settings((EOS,), 256, None)
    assert settings({"temperature": 0.7}, **google) == Settings(
        (EOS,), 256, Sampling(0.7, 64, 0.95, None)
    )
    assert settings({"do_sample": True, "temperature": 1.0, "top_k": 3}) == Settings(
        (EOS,), 256, Sampling(1.0, 3, 1.0, None)
    )
    assert settings({"temperature": 0.7}) == Settings((EOS,), 256, Sampling(0.7, 50, 1.0, None))


@pytest.mark.parametrize(
    "asked", [{"num_beams": 2}, {"repetition_penalty": 1.2}, {"max_length": 9}]
)
def test_what_is_left_to_lm_eval(asked: dict[str, Any]) -> None:
    assert settings(asked) is None
    assert asked == {"max_length": 9} or settings({}, **asked) is None


def test_what_asks_for_nothing_is_not() -> None:
    asked = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    assert settings(asked) == settings({}, **asked) == Settings((EOS,), 256, None)


@pytest.fixture(scope="module")
def model(scorable: Path) -> Any:
    """Its sliding window is 8."""
    return ElasticParent.load(open_parent(str(scorable)), dtype=torch.float32).live("full")


def prefix_scorer(model: Any, **options: Any) -> PrefixScorer:
    return PrefixScorer(model, tokenizer(), **options)


def hflm(model: Any, **options: Any) -> HFLM:
    options = {"batch_size": 1, "backend": "causal", "add_bos_token": True, **options}
    return HFLM(pretrained=model, tokenizer=tokenizer(), **options)


def test_beams_are_lm_evals(model: Any) -> None:
    requests = instances(
        [("The cat", {"until": [], "max_gen_toks": 4, "num_beams": 2})], "generate_until"
    )
    theirs = hflm(model).generate_until(requests, disable_tqdm=True)
    assert prefix_scorer(model).generate_until(requests, disable_tqdm=True) == theirs


def test_drawing_without_a_temperature() -> None:
    with pytest.raises(InputError, match="do_sample draws tokens, which needs a `temperature`"):
        settings({"do_sample": True})


STOPS = [["\n"], [" the", "\n\n"], ["é"], ["日本", "Q:"], ["<eos>"], ["e", "  "]]


@pytest.mark.parametrize("until", STOPS)
def test_a_text_ends_where_lm_evals_criteria_end_it(until: list[str]) -> None:
    """On random tokens, among them those that the stop sequences are made of."""
    tokens = tokenizer()
    draw = random.Random(0)
    pool = [draw.randrange(len(tokens)) for _ in range(20)]
    pool += [each for stop in until for each in tokens.encode(stop, add_special_tokens=False)]
    pool += [each for text in ("cab cat", "\n\n\n", "本日本") for each in tokens.encode(text)[1:]]
    ended = 0
    for _ in range(60):
        text = [draw.choice(pool) for _ in range(30)]
        ours = Ending(tokens, until, [])
        theirs = stop_sequences_criteria(tokens, until, 0, 1)
        for count in range(1, len(text) + 1):
            here: Any = theirs(torch.tensor([text[:count]]), torch.empty(0))
            ends = bool(torch.as_tensor(here).all()) if not isinstance(here, bool) else here
            ends = any(criterion.done_tracker[0] for criterion in theirs)
            assert ours(text[:count]) == ends
            if ends:
                ended += 1
                break
    assert ended


def test_end_of_text_tokens_end_it() -> None:
    assert Ending(tokenizer(), [], [7])([3, 7]) and not Ending(tokenizer(), [], [7])([7, 3])


def test_texts_are_cut_and_have_no_special_tokens() -> None:
    ids = tokenizer().encode("The cat sat.\nQ: who", add_special_tokens=False)
    assert text_of([*ids, tokenizer().eos_token_id], tokenizer(), ["\n"]) == "The cat sat."
    assert text_of(ids, tokenizer(), ["who", "\n"]) == "The cat sat."


PROMPTS = [
    "Question: What is it?\nAnswer: A cat.\n\nQuestion: Who is it?\nAnswer:",
    "Question: What is it?\nAnswer: A cat.\n\nQuestion: Where is it?\nAnswer:",
    "The cat sat on the mat.\n",
    "",
    "<bos>The cat",
    "word " * 40,
    "é日本 the",
]


@pytest.mark.parametrize(
    "asked",
    [
        {"until": ["\n"], "max_gen_toks": 8},
        {"until": [" smoke", "a"], "max_gen_toks": 6, "do_sample": False, "temperature": 0.0},
    ],
)
def test_texts_are_lm_evals(model: Any, asked: dict[str, Any]) -> None:
    """Prompts that lose their left end, and one with its own BOS."""
    requests = instances([(prompt, asked) for prompt in PROMPTS], "generate_until")
    ours, theirs = prefix_scorer(model, max_length=48), hflm(model, max_length=48)
    assert ours.generate_until(requests) == theirs.generate_until(requests, disable_tqdm=True)


def test_requests_with_other_arguments_keep_their_places(model: Any) -> None:
    pairs = [(prompt, {"until": [], "max_gen_toks": 2 + n % 2}) for n, prompt in enumerate(PROMPTS)]
    calls: list[tuple[float, int]] = []
    scorer = prefix_scorer(model, progress=lambda *call: calls.append(call))
    together = scorer.generate_until(instances(pairs, "generate_until"))
    single = [scorer.generate_until(instances([pair], "generate_until"))[0] for pair in pairs]
    assert together == single
    assert max(calls) == (len(pairs), len(pairs))
    assert calls[-1] == (1, 1)


@pytest.mark.parametrize("most", [0, 64])
def test_no_room_for_a_prompt_or_a_text(model: Any, most: int) -> None:
    requests = instances([("The cat", {"until": [], "max_gen_toks": most})], "generate_until")
    with pytest.raises(InputError, match=f"asks for {most} tokens, and the model reads 64"):
        prefix_scorer(model, max_length=64).generate_until(requests)


def test_the_embedded_parents_own_config_is_served_here() -> None:
    defaults = GenerationConfig.from_pretrained(tiny.model_dir())
    assert settings_of({}, defaults, eos=EOS, max_gen_toks=8) == Settings((EOS,), 8, None)

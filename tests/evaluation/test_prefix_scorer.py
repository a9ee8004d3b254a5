"""The scorer as an lm-eval model, against lm-eval's own over the same model."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from matformer_lab import tiny
from matformer_lab.evaluation.difference import difference_from_lm_eval
from matformer_lab.evaluation.evaluate import score
from matformer_lab.evaluation.models.lm import check_bos
from matformer_lab.evaluation.models.prefix_scorer import PrefixScorer
from matformer_lab.evaluation.tasks.entry import TaskEntry
from matformer_lab.evaluation.tasks.loading import LoadedTask, load_tasks
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.slice_scoring import Answer
from matformer_lab.slicing.notation.catalog import resolve_slice

CLOSE = 2e-4


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(tiny.model_dir())


@cache
def model() -> Any:
    """The embedded parent in fp32; its sliding window is 16."""
    parent = open_parent("tiny")
    return ElasticParent.load(parent, dtype=torch.float32).live(resolve_slice("e4b", parent))


def prefix_scorer(**options: Any) -> PrefixScorer:
    return PrefixScorer(model(), tokenizer(), **options)


def hflm(**options: Any) -> HFLM:
    return HFLM(
        pretrained=model(),
        tokenizer=tokenizer(),
        backend="causal",
        add_bos_token=True,
        **{"batch_size": 4, **options},
    )


def instances(pairs: Sequence[tuple[Any, ...]], kind: str = "loglikelihood") -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=pair, idx=0, metadata=("texts", n, 1))
        for n, pair in enumerate(pairs)
    ]


def assert_same(ours: Sequence[tuple[float, bool]], theirs: Sequence[tuple[float, bool]]) -> None:
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [logprob for logprob, _ in ours] == pytest.approx(
        [logprob for logprob, _ in theirs], abs=CLOSE
    )


PIECES = [
    "The cat",
    " sat",
    " on",
    " the mat.",
    "\n",
    " ",
    "  ",
    "é",
    "日本",
    " A",
    " B",
    "Answer:",
]
CONTEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
CONTINUATIONS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)


@settings(max_examples=10)
@given(
    st.lists(st.tuples(CONTEXTS, CONTINUATIONS), min_size=1, max_size=12),
    st.sampled_from([24, 2048]),
    st.sampled_from([40, 4096]),
)
def test_random_texts_score_as_lm_eval_scores_them(
    pairs: list[tuple[str, str]], max_length: int, batch_tokens: int
) -> None:
    pairs = [(context, " then" + text) for context, text in pairs]
    # logits_cache: lm-eval's reads the wrong positions where one text is split in two places.
    theirs = hflm(max_length=max_length, logits_cache=False).loglikelihood(instances(pairs))
    ours = prefix_scorer(max_length=max_length, batch_tokens=batch_tokens)
    assert_same(ours.loglikelihood(instances(pairs)), theirs)


EDGES = {
    "empty context": [("", "The cat sat"), ("", "<bos>The cat sat")],
    "space at the end of the context": [("The cat ", "sat"), ("The cat  ", "sat")],
    "a choice that starts another": [("The", " cat"), ("The", " cat sat"), ("The", " cat sat on")],
    "single tokens": [("Answer:", f" {letter}") for letter in "ABCD"],
    "equal requests": [("The cat", " sat")] * 3,
    "longer than max_length": [("word " * 100 + n, " on the mat") for n in ("one", "two")],
    "its own BOS": [("<bos>The cat", " sat")],
    "nothing but space": [(" ", "sat"), ("\n", " sat"), ("  ", " sat")],
    "nothing in common": [("The cat", " sat"), ("A dog", " is big"), ("One", " two three")],
}


@pytest.mark.parametrize("edge", EDGES)
def test_edges_score_as_lm_eval_scores_them(edge: str) -> None:
    requests = instances(EDGES[edge])
    theirs = hflm(max_length=32).loglikelihood(requests)
    assert_same(prefix_scorer(max_length=32).loglikelihood(requests), theirs)


def test_one_text_split_in_two_places() -> None:
    requests = instances([("The cat", " sat on the mat"), ("The cat sat", " on the mat")])
    assert_same(
        prefix_scorer().loglikelihood(requests), hflm(logits_cache=False).loglikelihood(requests)
    )


def test_encodes_one_bos() -> None:
    scorer = prefix_scorer()
    assert check_bos(scorer) == 2
    (request,) = scorer.encode(instances([("The cat", " sat")]))
    assert [*request.inputs, *request.targets].count(2) == 1


def test_rolling_and_generation_are_lm_evals() -> None:
    texts = instances([("The cat sat on the mat. " * 20,), ("Answer: A",)], "loglikelihood_rolling")
    ours = prefix_scorer(max_length=32)
    assert ours.loglikelihood_rolling(texts) == pytest.approx(
        # Windows of a repetitive text are one text split in two places; see above.
        hflm(max_length=32, logits_cache=False).loglikelihood_rolling(texts),
        abs=10 * CLOSE,
    )
    prompts = instances([("The cat", {"until": ["\n"], "max_gen_toks": 8})], "generate_until")
    assert prefix_scorer().generate_until(prompts) == hflm().generate_until(prompts)


def test_known_answers_do_not_run_the_model() -> None:
    calls: list[tuple[int, int]] = []
    scorer = prefix_scorer(
        answers={("The cat", " sat"): (-1.5, True)}, progress=lambda *call: calls.append(call)
    )
    known, new = instances([("The cat", " sat"), ("The cat", " ran")])
    assert scorer.loglikelihood([known]) == [(-1.5, True)]
    assert calls == []
    answers = scorer.loglikelihood([new, known, new])
    assert answers[1] == (-1.5, True)
    assert_same([answers[0], answers[2]], hflm().loglikelihood([new, new]))
    assert calls[-1] == (2, 2)


def test_the_check_finds_a_wrong_answer() -> None:
    requests = instances([("The cat", f" sat {n}") for n in range(10)])
    answers = prefix_scorer().loglikelihood(requests)
    same = difference_from_lm_eval(hflm(), requests, answers, items=4)
    assert (same.items, same.requests, same.greedy_flips) == (4, 4, 0)
    assert same.largest <= CLOSE
    assert difference_from_lm_eval(hflm(), requests, answers, items=99).items == 10

    wrong = [Answer(logprob - 0.25, not greedy) for logprob, greedy in answers]
    found = difference_from_lm_eval(hflm(), requests, wrong, items=4)
    assert found.largest == pytest.approx(0.25, abs=CLOSE)
    assert found.greedy_flips == 4


@pytest.mark.parametrize("lost", [float("nan"), float("-inf")])
def test_the_check_finds_what_is_no_number(lost: float) -> None:
    requests = instances([("The cat", f" sat {n}") for n in range(4)])
    answers = prefix_scorer().loglikelihood(requests)
    answers[2] = Answer(lost, answers[2].is_greedy)
    assert difference_from_lm_eval(hflm(), requests, answers, items=4).largest == float("inf")


def test_encoded_requests_share_their_ids() -> None:
    one, other = prefix_scorer().encode(instances([("The dog sat on the mat", " and")] * 2))
    assert one == other
    assert all(a is b for a, b in zip(one.inputs, other.inputs, strict=True))
    assert any(each > 256 for each in one.inputs)  # smaller ones Python shares itself


def shortest_prompts(task: LoadedTask, items: int) -> list[Instance]:
    """All requests of the `items` documents with the shortest prompts."""
    length = {(each.task_name, each.doc_id): len(each.args[0]) for each in task.requests}
    chosen = sorted(length, key=length.__getitem__)[:items]
    return [each for each in task.requests if (each.task_name, each.doc_id) in chosen]


def choices(
    requests: Sequence[Instance], answers: Sequence[tuple[float, bool]]
) -> dict[tuple[str, int], int]:
    """Of every document, the most likely choice."""
    scores: dict[tuple[str, int], list[float]] = {}
    for request, (logprob, _) in zip(requests, answers, strict=True):
        scores.setdefault((request.task_name, request.doc_id), []).append(logprob)
    return {item: max(range(len(each)), key=each.__getitem__) for item, each in scores.items()}


@pytest.mark.parametrize(
    ("name", "num_fewshot", "items"), [("hellaswag", 10, 3), ("boolq", 0, 20), ("mmlu", 5, 12)]
)
def test_real_tasks_score_as_lm_eval_scores_them(
    shared: Path, name: str, num_fewshot: int, items: int
) -> None:
    entry = TaskEntry(name=name, num_fewshot=num_fewshot)
    (task,) = load_tasks(
        [entry], limit=20 if name == "boolq" else 3, seed=1234, datasets=shared / "benchmarks"
    )
    requests = shortest_prompts(task, items)
    ours, theirs = prefix_scorer().loglikelihood(requests), hflm().loglikelihood(requests)
    assert_same(ours, theirs)
    assert choices(requests, ours) == choices(requests, theirs)


def test_lm_evals_evaluator_runs_it() -> None:
    (task,) = load_tasks([TaskEntry(name="tiny_boolq")], limit=8, seed=1234, datasets=None)
    ours, theirs = score(prefix_scorer(), task), score(hflm(), task)
    assert [row.value for row in ours.metrics] == [row.value for row in theirs.metrics]
    assert [item["choice"] for item in ours.items] == [item["choice"] for item in theirs.items]


def test_texts_encoded_at_once_are_encoded_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from matformer_lab.evaluation.models import prefix_scorer as module

    monkeypatch.setattr(module, "_ENCODED_AT_ONCE", 4)
    bos = tokenizer().bos_token
    pairs = [
        (context, continuation)
        for context in ("The cat", "The cat ", "  \n", "", bos, f"{bos}The cat", "é ü 猫", "a\n\n")
        for continuation in (" sat", "sat", " ", f"{bos}x")
    ]
    lm = prefix_scorer()
    theirs = hflm()
    encoded = lm.encode(instances(pairs))
    for (context, continuation), request in zip(pairs, encoded, strict=True):
        if context:
            first, second = theirs._encode_pair(context, continuation)
            assert request == Request.of(first, second, lm.max_length)
        else:
            assert request.inputs[0] == lm.prefix_token_id
    assert not lm._encoded

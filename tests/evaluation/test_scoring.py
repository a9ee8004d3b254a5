"""Scores: lm-eval's own numbers from a live slice, and the BOS that must be there."""

from pathlib import Path
from typing import Any

import pytest
import torch

from matformer_lab import tiny
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.built_requests import requests_built
from matformer_lab.evaluation.evaluate import score, score_together
from matformer_lab.evaluation.models.lm import check_bos, make_lm
from matformer_lab.evaluation.score import Score
from matformer_lab.evaluation.tasks.datasets import mapped_datasets
from matformer_lab.evaluation.tasks.entry import Scorer, TaskEntry
from matformer_lab.evaluation.tasks.loading import LoadedTask, load_tasks
from matformer_lab.evaluation.tokenizer import load_tokenizer
from matformer_lab.live.devices import idle_gpus, resolve_device
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan

LIMIT = 5
BATCH = 4


@pytest.fixture(scope="module")
def tasks() -> tuple[LoadedTask, ...]:
    names = ("tiny_hellaswag", "tiny_boolq", "tiny_mmlu")
    entries = [TaskEntry(name=name) for name in names]
    return load_tasks(entries, limit=LIMIT, seed=1234, datasets=None)


@pytest.fixture(scope="module")
def elastic(scorable: Path) -> ElasticParent:
    return ElasticParent.load(open_parent(str(scorable)), dtype=torch.float32)


def lm_of(elastic: ElasticParent, ref: str) -> Any:
    (slice_,) = resolve_slices([ref], elastic.parent)
    tokenizer = load_tokenizer(elastic.parent)
    return make_lm(elastic.live(slice_), tokenizer, scorer="lm-eval", batch_size=BATCH)


@pytest.fixture(scope="module")
def scores(elastic: ElasticParent, tasks: tuple[LoadedTask, ...]) -> dict[str, Score]:
    lm = lm_of(elastic, "1/2")
    return {task.name: score(lm, task) for task in tasks}


@pytest.fixture(scope="module")
def by_lm_eval(
    scorable: Path, tasks: tuple[LoadedTask, ...], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The same from `lm_eval.simple_evaluate` on the extracted checkpoint, loaded by lm-eval."""
    import lm_eval

    parent = open_parent(str(scorable))
    (slice_,) = resolve_slices(["1/2"], parent)
    folder = tmp_path_factory.mktemp("extracted") / "half"
    write_checkpoint(make_plan(parent, slice_), folder)
    manager = lm_eval.tasks.TaskManager(include_path=tiny.tasks_dir(), include_defaults=False)
    with mapped_datasets(tiny.datasets_dir()):
        results: dict[str, Any] = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder), "dtype": "float32", "add_bos_token": True},
            tasks=[task.name for task in tasks],
            task_manager=manager,
            limit=LIMIT,
            batch_size=BATCH,
            device="cpu",
            random_seed=1234,
            numpy_random_seed=1234,
            torch_random_seed=1234,
            fewshot_random_seed=1234,
        )
    return results


@pytest.mark.parametrize("name", ["tiny_hellaswag", "tiny_boolq", "tiny_mmlu"])
def test_a_live_slice_scores_as_lm_eval_scores_the_checkpoint(
    name: str, scores: dict[str, Score], by_lm_eval: dict[str, Any]
) -> None:
    """Every metric, standard error and log-likelihood, bit for bit; groups and their tasks too."""
    for row in scores[name].metrics:
        theirs = by_lm_eval["results"][row.task]
        assert row.value == theirs[f"{row.metric},none"]
        assert row.stderr == theirs[f"{row.metric}_stderr,none"]
        assert row.num_fewshot == by_lm_eval["n-shot"][row.task]
        assert row.version == str(by_lm_eval["versions"][row.task])
    samples = {
        (task, sample["doc_id"]): sample
        for task, listed in by_lm_eval["samples"].items()
        for sample in listed
    }
    for item in scores[name].items:
        sample = samples[item["subtask"], item["doc_id"]]
        assert item["logprobs"] == [logprob for logprob, _ in sample["filtered_resps"]]
        assert item["acc"] == sample["acc"]
        assert item["prompt_hash"] == sample["prompt_hash"]


def test_the_first_row_is_the_recipes_task(scores: dict[str, Score]) -> None:
    rows = scores["tiny_mmlu"].metrics
    assert (rows[0].task, rows[0].group, rows[0].higher_is_better) == ("tiny_mmlu", None, True)
    assert {row.group for row in rows[1:]} == {"tiny_mmlu"}
    assert rows[0].n == sum(row.n for row in rows[1:])


def test_a_groups_score_is_the_mean_over_its_items(scores: dict[str, Score]) -> None:
    score = scores["tiny_mmlu"]
    accuracies = [item["acc"] for item in score.items]
    assert score.metrics[0].value == pytest.approx(sum(accuracies) / len(accuracies))


def test_scoring_one_model_leaves_no_trace_on_the_next(
    elastic: ElasticParent, tasks: tuple[LoadedTask, ...], scores: dict[str, Score]
) -> None:
    """Requests are shared between models; answers must not be."""
    task = tasks[0]
    other = score(lm_of(elastic, "1/4"), task)
    assert [item["logprobs"] for item in other.items] != [
        item["logprobs"] for item in scores[task.name].items
    ]
    again = score(lm_of(elastic, "1/2"), task)
    assert again == scores[task.name]


@pytest.fixture(scope="module")
def together(
    elastic: ElasticParent, tasks: tuple[LoadedTask, ...]
) -> dict[str, dict[str, dict[str, Score]]]:
    """scorer -> slice -> task: what each scorer makes of three slices at once."""
    slices = resolve_slices(["1/2", "1/4", "full"], elastic.parent)
    models = {slice_.name: elastic.live(slice_) for slice_ in slices}
    tokenizer = load_tokenizer(elastic.parent)
    found: dict[str, dict[str, dict[str, Score]]] = {}
    for scorer in ("lm-eval", "prefix"):
        for task in tasks:
            shares: list[float] = []
            scored = score_together(
                models, tokenizer, task, scorer=scorer, batch_size=BATCH, progress=shares.append
            )
            for name, result, seconds in scored:
                found.setdefault(scorer, {}).setdefault(name, {})[task.name] = result
                assert seconds > 0
            assert shares == sorted(shares)
            assert shares[-1] == 1
    return found


def test_slices_scored_together_score_as_alone(
    together: dict[str, dict[str, dict[str, Score]]], scores: dict[str, Score]
) -> None:
    assert together["lm-eval"]["uniform-1-2"] == scores
    assert together["lm-eval"]["uniform-1-4"] != scores


def test_the_prefix_scorer_gives_lm_evals_scores(
    together: dict[str, dict[str, dict[str, Score]]],
) -> None:
    assert together["prefix"].keys() == together["lm-eval"].keys()
    for name, by_task in together["lm-eval"].items():
        for task, theirs in by_task.items():
            ours = together["prefix"][name][task]
            assert ours.metrics == theirs.metrics
            for our_item, their_item in zip(ours.items, theirs.items, strict=True):
                assert our_item["logprobs"] == pytest.approx(their_item["logprobs"], abs=2e-4)
                assert our_item["choice"] == their_item["choice"]
                assert our_item["prompt_hash"] == their_item["prompt_hash"]


def test_the_choice_is_the_likeliest_answer(scores: dict[str, Score]) -> None:
    for item in scores["tiny_boolq"].items:
        assert item["choice"] == item["logprobs"].index(max(item["logprobs"]))
        assert item["acc"] == float(item["choice"] == item["target"])


def test_every_prompt_starts_with_exactly_one_bos(
    elastic: ElasticParent, tasks: tuple[LoadedTask, ...]
) -> None:
    lm = lm_of(elastic, "1/2")
    bos = check_bos(lm)
    for task in tasks:
        for request in task.requests:
            ids = lm.tok_encode("".join(request.args))
            assert ids[0] == bos
            assert bos not in ids[1:]


@pytest.mark.parametrize("scorer", ["lm-eval", "prefix"])
@pytest.mark.parametrize("count", [0, 2])
def test_no_bos_or_two_is_refused(elastic: ElasticParent, count: int, scorer: Scorer) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(elastic.parent)
    bos, bos_id = tokenizer.bos_token, tokenizer.bos_token_id
    template = " ".join([bos] * count + ["$A"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[(bos, bos_id)]
    )
    (slice_,) = resolve_slices(["1/2"], elastic.parent)
    with pytest.raises(InputError, match="exactly one BOS"):
        make_lm(elastic.live(slice_), tokenizer, scorer=scorer)


def test_a_device_that_is_not_there_is_refused() -> None:
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(InputError, match="`device`: cuda:63 is not available"):
        resolve_device("cuda:63")


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(False, False, "cpu"), (False, True, "mps"), (True, True, "cuda"), (True, False, "cuda")],
)
def test_auto_is_the_first_gpu_there_is(
    cuda: bool, mps: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto") == device


def test_idle_gpus_are_those_that_nobody_chose_to_leave_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [idle_gpus(device) for device in ("cuda", "cuda:1", "cpu", "mps")] == [3, 0, 0, 0]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert idle_gpus("cuda") == 0


@pytest.mark.parametrize(("vocabulary", "batch"), [(1024, 32), (262_144, 1), (32_000, 8)])
def test_a_cpu_batch_fits_its_logits(vocabulary: int, batch: int) -> None:
    from matformer_lab.evaluation.models.lm import cpu_batch_size

    assert cpu_batch_size(vocabulary) == batch


def test_requests_are_encoded_once_for_all_passes_over_slices(
    elastic: ElasticParent, tasks: tuple[LoadedTask, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from matformer_lab.evaluation import evaluate
    from matformer_lab.evaluation.models.prefix_scorer import PrefixScorer

    monkeypatch.setattr(evaluate, "_latest_encoded", {})
    encoded: list[int] = []
    original = PrefixScorer.encode

    def counted(self: Any, instances: Any) -> Any:
        encoded.append(len(instances))
        return original(self, instances)

    monkeypatch.setattr(PrefixScorer, "encode", counted)
    tokenizer = load_tokenizer(elastic.parent)
    for task in tasks[:2]:
        for ref in ("1/2", "1/4", "full"):
            (slice_,) = resolve_slices([ref], elastic.parent)
            models = {slice_.name: elastic.live(slice_)}
            list(score_together(models, tokenizer, task, scorer="prefix"))
    # What the evaluator asks for is known by then: it has nothing left to encode.
    assert [count for count in encoded if count] == [len(task.requests) for task in tasks[:2]]


def test_the_evaluator_gets_the_documents_that_lm_eval_would_give_it(
    tasks: tuple[LoadedTask, ...],
) -> None:
    for task in tasks:
        for subtask in task.subtasks.values():
            theirs = list(subtask.doc_iterator(limit=LIMIT))
            of_each = [
                (subtask.doc_to_target(doc), subtask.doc_to_choice(doc)) for _, doc in theirs
            ]
            for _ in range(2):  # the second time, as rendered before
                with requests_built(task):
                    ours = list(subtask.doc_iterator(limit=LIMIT))
                    assert ours == theirs
                    rendered = [
                        (subtask.doc_to_target(doc), subtask.doc_to_choice(doc)) for _, doc in ours
                    ]
                    assert rendered == of_each
                    rendered[0][1].clear()  # what a metric does to a list no other slice sees
            assert list(subtask.doc_iterator(limit=LIMIT)) == theirs


def test_a_tasks_own_code_gets_documents_of_its_own(
    tasks: tuple[LoadedTask, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks[0]
    (subtask,) = task.subtasks.values()
    monkeypatch.setattr(subtask.config, "process_results", lambda doc, _results: doc.clear())
    theirs = list(subtask.doc_iterator(limit=LIMIT))
    with requests_built(task):
        subtask.process_results(next(subtask.doc_iterator(limit=LIMIT))[1], [])
        assert list(subtask.doc_iterator(limit=LIMIT)) == theirs


def test_an_answer_longer_than_the_model_reads_is_an_error_that_names_the_task(
    elastic: ElasticParent, tasks: tuple[LoadedTask, ...]
) -> None:
    (slice_,) = resolve_slices(["1/2"], elastic.parent)
    model = elastic.live(slice_)
    model.config.max_position_embeddings = 2
    tokenizer = load_tokenizer(elastic.parent)
    with pytest.raises(InputError, match=r"tiny_hellaswag cannot be scored: .* of 1 to 2 tokens"):
        list(score_together({"half": model}, tokenizer, tasks[0], scorer="prefix"))

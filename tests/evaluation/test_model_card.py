"""Every benchmark of the model card: lm-eval's real task on made-up items, against lm-eval itself.

Ours is what a sweep does: a live slice, the `prefix` scorer, tasks loaded with their datasets from
a folder. Theirs is `lm_eval.simple_evaluate` on the extracted checkpoint. Both read the same files,
which are in the datasets' real format (`tests/support/benchmarks.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from matformer_lab.evaluation.evaluate import score_together
from matformer_lab.evaluation.score import Score
from matformer_lab.evaluation.tasks import names
from matformer_lab.evaluation.tasks.datasets import mapped_datasets
from matformer_lab.results.model_card import Benchmark, CardTask, Variant, model_card
from matformer_lab.sweep.jobs import prepare
from matformer_lab.sweep.recipe import parse_recipe
from tests.support.benchmarks import write_benchmarks

MEASURED: Final = [one for one in model_card().benchmarks if one.task is not None]

# A group of many tasks is loaded for minutes: by default one of its tasks stands for it. Each with
# the folder of lm-eval's that defines it, so that the 14,000 files of all are not indexed.
STAND_INS: Final[Mapping[str, Mapping[str, str]]] = {
    "bbh_cot_fewshot": {"bbh_cot_fewshot_word_sorting": "bbh/cot_fewshot"},
    "mmlu": {"mmlu_anatomy": "mmlu/default"},
    "mmlu_pro": {"mmlu_pro_biology": "mmlu_pro"},
    "card_mgsm": {"mgsm_native_cot_de": "mgsm/native_cot"},
    "card_include": {"include_base_44_german": "include/default/German"},
    "card_mmlu_prox": {"mmlu_prox_de_biology": "mmlu_prox/de"},
    "mmmlu": {"mmmlu_de_de_anatomy": "openai-mmmlu/default"},
    "card_global_mmlu": {"global_mmlu_full_de_anatomy": "global_mmlu/full/de"},
    "card_global_mmlu_lite": {"global_mmlu_de_stem": "global_mmlu/default/de"},
}
LANGUAGES: Final = ("de", "german", "de_de")
LIMIT: Final = 2
TOKENS: Final = {"max_gen_toks": 3}
SEED: Final = 1234


class Both(NamedTuple):
    ours: Score
    theirs: dict[str, Any]


def asked() -> list[Benchmark]:
    """The card's benchmarks, with stand-ins in the place of the large groups."""
    return [
        one.model_copy(update={"task": one.task.model_copy(update={"name": name})})
        for one in MEASURED
        for name in STAND_INS.get(task_of(one).name, (task_of(one).name,))
        if one.task
    ]


def task_of(benchmark: Benchmark) -> CardTask:
    assert benchmark.task is not None
    return benchmark.task


@contextmanager
def offline() -> Iterator[None]:
    """Stand-ins found in their folders, `code_eval` without the Hub, and no look at the machine."""
    folders = {name: folder for ones in STAND_INS.values() for name, folder in ones.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "USUAL_FOLDERS", {**names.USUAL_FOLDERS, **folders})
        patch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)  # takes seconds
        patch.setenv("HF_ALLOW_CODE_EVAL", "1")
        patch.chdir(Path(__file__).parents[1] / "support")
        yield


def scores(
    benchmarks: list[Benchmark], variant: Variant, parent: Path, data: Path, folder: Path
) -> dict[str, Both]:
    """What both say of a half-width slice; the instruction-tuned one is asked in turns."""
    import matformer_lab as ml

    tasks = [task_of(one) for one in benchmarks if one.variant == variant]
    recipe = {
        "parent": str(parent),
        "slices": ["1/2"],
        "tasks": [task.model_dump() for task in tasks],
        "datasets": str(data),
        "dtype": "float32",
        "device": "cpu",
        "limit": LIMIT,
        "seed": SEED,
        "gen_kwargs": TOKENS,
        "apply_chat_template": variant == "IT",
        "confirm_run_unsafe_code": True,
    }
    prepared = prepare(parse_recipe(recipe))
    (sized,) = prepared.sized
    ml.write_checkpoint(sized.plan, folder)
    live = {"1/2": ml.ElasticParent.load(prepared.parent).live(sized.slice)}
    ours = {
        task.name: next(
            score_together(live, prepared.tokenizer, task, scorer="prefix", batch_size=4)
        ).score
        for task in prepared.tasks
    }
    theirs = by_lm_eval(tasks, folder, data, in_turns=variant == "IT")
    return {task.name: Both(ours[task.name], theirs[task.num_fewshot]) for task in tasks}


def by_lm_eval(
    tasks: list[CardTask], folder: Path, data: Path, *, in_turns: bool
) -> dict[int, dict[str, Any]]:
    """lm-eval's own results by few-shot count, as its command line makes them."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    model = HFLM(
        pretrained=str(folder), dtype="float32", add_bos_token=True, device="cpu", batch_size=4
    )
    manager = names.task_manager([task.name for task in tasks])
    found = {}
    for shots in {task.num_fewshot for task in tasks}:
        with mapped_datasets(data):
            found[shots] = lm_eval.simple_evaluate(
                model=model,
                tasks=[task.name for task in tasks if task.num_fewshot == shots],
                task_manager=manager,
                num_fewshot=shots,
                apply_chat_template=in_turns,
                fewshot_as_multiturn=in_turns,
                gen_kwargs=",".join(f"{key}={value}" for key, value in TOKENS.items()),
                limit=LIMIT,
                confirm_run_unsafe_code=True,
                random_seed=SEED,
                numpy_random_seed=SEED,
                torch_random_seed=SEED,
                fewshot_random_seed=SEED,
            )
    return found


def check_equal(task: CardTask, both: Both) -> None:
    """Every metric with its standard error and shots, and every item with what was answered."""
    assert both.ours.metrics[0].task == task.name
    assert task.metric in {row.metric for row in both.ours.metrics}
    for row in both.ours.metrics:
        theirs = both.theirs["results"][row.task]
        key = row.metric if "," in row.metric else f"{row.metric},none"
        assert row.value == pytest.approx(theirs[key], nan_ok=True), row
        if isinstance(stderr := theirs[key.replace(",", "_stderr,")], float):
            assert row.stderr is not None
            assert row.stderr == pytest.approx(stderr, nan_ok=True), row
        assert row.num_fewshot == both.theirs["n-shot"].get(row.task, row.num_fewshot)
    compared = 0
    for item in both.ours.items:
        samples = [
            each
            for each in both.theirs["samples"][item["subtask"]]
            if each["doc_id"] == item["doc_id"]
        ]
        assert samples
        for sample in samples:
            assert item["prompt_hash"] == sample["prompt_hash"]
            assert item["doc_hash"] == sample["doc_hash"]
            for metric in sample["metrics"]:
                if isinstance(value := sample[metric], int | float):
                    name = f"{metric},{sample['filter']}".removesuffix(",none")
                    assert item[name] == value
                    compared += 1
        if "logprobs" in item:
            answers = [logprob for logprob, _ in samples[0]["filtered_resps"]]
            assert item["logprobs"] == pytest.approx(answers, abs=1e-4)
        else:
            assert item["responses"] == [text for each in samples[0]["resps"] for text in each]
            for sample in samples:
                name = f"extracted,{sample['filter']}".removesuffix(",none")
                (found,) = sample["filtered_resps"]
                (found,) = found if isinstance(found, list) and len(found) == 1 else [found]
                assert item[name] == (found if isinstance(found, str) else json.dumps(found))
    assert compared >= len(both.ours.items) >= 1


@pytest.fixture(scope="module")
def both(
    scorable: Path, instruction_tuned: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Both]:
    """All benchmarks of the card, scored once; the groups of many tasks by one of them."""
    data = write_benchmarks(tmp_path_factory.mktemp("benchmarks"), languages=LANGUAGES)
    folder = tmp_path_factory.mktemp("extracted")
    with offline():
        return {
            **scores(asked(), "PT", scorable, data, folder / "pt"),
            **scores(asked(), "IT", instruction_tuned, data, folder / "it"),
        }


@pytest.mark.parametrize("task", [task_of(one) for one in asked()], ids=lambda task: task.name)
def test_a_benchmark_scores_as_lm_eval_scores_it(task: CardTask, both: dict[str, Both]) -> None:
    check_equal(task, both[task.name])


@pytest.fixture(scope="module")
def every_language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("every-language"))


@pytest.mark.slow
@pytest.mark.parametrize("name", STAND_INS)
def test_a_whole_group_scores_as_lm_eval_scores_it(
    name: str, scorable: Path, instruction_tuned: Path, every_language: Path, tmp_path: Path
) -> None:
    """Every language and subject."""
    (benchmark,) = (one for one in MEASURED if task_of(one).name == name)
    parent = scorable if benchmark.variant == "PT" else instruction_tuned
    with offline():
        found = scores([benchmark], benchmark.variant, parent, every_language, tmp_path / "half")
    check_equal(task_of(benchmark), found[name])

"""Tasks whose answers are texts: a sweep of lm-eval's own GSM8K and TriviaQA, on a few items."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lm_eval.models.huggingface import HFLM

from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.models.lm import make_lm
from matformer_lab.evaluation.tasks.datasets import mapped_datasets
from matformer_lab.evaluation.tasks.entry import TaskEntry
from matformer_lab.evaluation.tasks.loading import LoadedTask, load_tasks
from matformer_lab.evaluation.tasks.names import task_manager
from matformer_lab.evaluation.tokenizer import load_tokenizer
from matformer_lab.gate.run import run_gate
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.report.write import write_report
from matformer_lab.results.read import read_sweep
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan
from matformer_lab.sweep.recipe import parse_recipe
from matformer_lab.sweep.run import run_sweep
from tests.support.written_tasks import write_gsm8k, write_trivia_qa
from tests.sweep.test_not_finite import broken, overflowing

ITEMS = 4
TASKS = [{"name": "gsm8k", "num_fewshot": 1}, {"name": "triviaqa", "num_fewshot": 1}]


@pytest.fixture(scope="module", autouse=True)
def short_texts() -> Iterator[None]:
    """At most 24 tokens, not 256, where a task does not say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HFLM, "max_gen_toks", property(lambda _: 24))
        yield


@pytest.fixture(scope="module")
def parent(scorable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ends its texts often: an eighth of the tokens are an end of text."""
    folder = tmp_path_factory.mktemp("writer") / "parent"
    shutil.copytree(scorable, folder)
    ends = {"eos_token_id": [1, *range(8, 1024, 8)], "bos_token_id": 2, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    return folder


def written(parent: Path, data: Path, task: str) -> list[str]:
    """What the full slice writes."""
    (loaded,) = loaded_tasks(data, task)
    elastic = ElasticParent.load(open_parent(str(parent)), dtype=torch.float32)
    lm = make_lm(elastic.live("full"), load_tokenizer(elastic.parent), scorer="prefix")
    return list(lm.generate_until(loaded.requests))


def loaded_tasks(data: Path, *names: str) -> tuple[LoadedTask, ...]:
    entries = [TaskEntry(name=name, num_fewshot=1) for name in names]
    return load_tasks(entries, limit=ITEMS, seed=1234, datasets=data)


@pytest.fixture(scope="module")
def data(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the right answers are what the full slice writes."""
    folder = tmp_path_factory.mktemp("data")
    unanswered = write_trivia_qa(folder / "unanswered", ["none"] * ITEMS)
    texts = written(parent, unanswered, "triviaqa")
    right = [text.removeprefix(" ") if n % 2 else "none" for n, text in enumerate(texts)]
    write_trivia_qa(folder / "data", right)
    return write_gsm8k(
        folder / "data", ["[invalid]" if number % 3 else "7" for number in range(ITEMS)]
    )


def sweep(out: Path, parent: Path, data: Path, **changes: Any) -> Path:
    recipe = {
        "parent": str(parent),
        "slices": ["full", "1/2"],
        "tasks": TASKS,
        "datasets": str(data),
        "dtype": "float32",
        "device": "cpu",
        "limit": ITEMS,
        **changes,
    }
    return run_sweep(parse_recipe(recipe), out, report=False)


@pytest.fixture(scope="module")
def swept(parent: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep(tmp_path_factory.mktemp("sweep") / "out", parent, data)


@pytest.fixture(scope="module")
def by_lm_eval(parent: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same from `lm_eval.simple_evaluate` on the extracted checkpoint, loaded by lm-eval."""
    import lm_eval

    opened = open_parent(str(parent))
    folder = tmp_path_factory.mktemp("extracted") / "half"
    write_checkpoint(make_plan(opened, resolve_slice("1/2", opened)), folder)
    with mapped_datasets(data):
        return lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder), "dtype": "float32", "add_bos_token": True},
            tasks=["gsm8k", "triviaqa"],
            task_manager=task_manager(["gsm8k", "triviaqa"]),
            num_fewshot=1,
            limit=ITEMS,
            batch_size=1,
            device="cpu",
            random_seed=1234,
            numpy_random_seed=1234,
            torch_random_seed=1234,
            fewshot_random_seed=1234,
        )


def items_of(out: Path, slice_: str, task: str) -> pd.DataFrame:
    samples = (pd.read_parquet(path) for path in (out / "samples").rglob("*.parquet"))
    every = pd.concat([each for each in samples if set(each.task) == {task}])
    return every[every.slice == slice_].sort_values("doc_id").reset_index(drop=True)


@pytest.mark.parametrize("task", ["gsm8k", "triviaqa"])
def test_items_and_metrics_are_lm_evals(swept: Path, by_lm_eval: Any, task: str) -> None:
    ours = items_of(swept, "uniform-1-2", task)
    theirs = by_lm_eval["samples"][task]
    assert len(ours) == ITEMS and len(set(ours.responses.map(tuple))) > 1
    for sample in theirs:
        item = ours.iloc[sample["doc_id"]]
        assert list(item.responses) == sample["resps"][0]
        (found,) = sample["filtered_resps"]
        assert item[f"extracted,{sample['filter']}"] == found
        assert item[f"exact_match,{sample['filter']}"] == sample["exact_match"]
    rows = pd.read_csv(swept / "results.csv").query("slice == 'uniform-1-2' and task == @task")
    assert len(rows) == (2 if task == "gsm8k" else 1)
    for row in rows.itertuples():
        assert row.value == by_lm_eval["results"][task][row.metric]


def test_report_and_gate_serve_texts_as_they_do_choices(swept: Path, tmp_path: Path) -> None:
    found = read_sweep(swept)
    assert {task.name: task.outcomes is not None for task in found.tasks} == {
        "gsm8k": True,
        "triviaqa": True,
    }
    full = items_of(swept, "uniform-full", "triviaqa")["exact_match,remove_whitespace"]
    assert full.sum() >= ITEMS // 2
    assert len(found.comparison("uniform-full", "uniform-1-2")) > 0
    assert "triviaqa" in write_report(swept).read_text()
    baseline = tmp_path / "baseline.yaml"
    run_gate(swept, baseline, update=True)
    checks = {(check.slice, check.task): check for check in run_gate(swept, baseline).checks}
    assert checks["uniform-full", "triviaqa"].drop == 0.0


def test_texts_of_nan_are_refused(parent: Path, data: Path, tmp_path: Path) -> None:
    damaged = broken(parent, tmp_path / "damaged", overflowing)
    says = r"slice uniform-full: triviaqa, item \d: the logits .* not finite in float16.*bfloat16"
    changes = {"tasks": TASKS[1:], "slices": ["full"], "dtype": "float16"}
    with pytest.raises(InputError, match=says), pytest.warns(UserWarning):
        sweep(tmp_path / "out", damaged, data, **changes)
    assert not list((tmp_path / "out").rglob("*.parquet"))

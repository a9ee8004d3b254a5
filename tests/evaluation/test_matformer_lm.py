"""`matformer` by name, as lm-eval's own entry points open it, against a sweep of the same slice."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.tasks import TaskManager

import matformer_lab as ml
from matformer_lab import tiny
from matformer_lab.evaluation.models.matformer_lm import MatformerLM
from matformer_lab.evaluation.tasks.datasets import mapped_datasets

TASK = "tiny_boolq"
LIMIT = 8
ARGUMENTS = {"parent": "tiny", "slice": "e2b", "dtype": "float32"}


def evaluated(**options: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=tiny.tasks_dir(), include_defaults=False)
    with mapped_datasets(None, tiny.datasets_dir()):
        found: dict[str, Any] = lm_eval.simple_evaluate(
            model="matformer", tasks=[TASK], limit=LIMIT, task_manager=manager, **options
        )
    return found


def logprobs(samples: list[Mapping[str, Any]]) -> dict[int, list[float]]:
    return {each["doc_id"]: [answer[0] for answer in each["filtered_resps"]] for each in samples}


@pytest.fixture(scope="module")
def by_name() -> dict[str, Any]:
    return evaluated(model_args=ARGUMENTS)


def test_a_slice_scores_by_name_as_in_a_sweep(by_name: dict[str, Any], tmp_path: Path) -> None:
    """To the last digit: metric, standard error, and every log-probability."""
    recipe = {
        "parent": "tiny",
        "slices": ["e2b"],
        "tasks": [TASK],
        "limit": LIMIT,
        "dtype": "float32",
    }
    out = ml.run_sweep(ml.parse_recipe(recipe), tmp_path / "out", report=False, progress=False)
    (row,) = ml.load_results(out).to_dict("records")
    theirs = by_name["results"][TASK]
    assert (row["metric"], row["value"]) == ("acc", theirs["acc,none"])
    assert row["stderr"] == theirs["acc_stderr,none"]
    assert by_name["config"]["model_dtype"] == torch.float32

    items = ml.load_samples(out, TASK)
    swept = {item["doc_id"]: list(item["logprobs"]) for item in items.to_dict("records")}
    assert len(swept) == LIMIT
    assert swept == logprobs(by_name["samples"][TASK])


def test_arguments_as_a_string_and_those_of_simple_evaluate(by_name: dict[str, Any]) -> None:
    text = ",".join(f"{key}={value}" for key, value in ARGUMENTS.items())
    found = evaluated(model_args=text, batch_size=2, max_batch_size=4, device="cpu")
    assert found["results"] == by_name["results"]
    assert logprobs(found["samples"][TASK]) == logprobs(by_name["samples"][TASK])


def test_the_arguments_of_simple_evaluate_arrive() -> None:
    lm = MatformerLM("tiny", "1/4", dtype="bfloat16", device="cpu", batch_size=2, max_batch_size=4)
    assert (lm.batch_size, lm.max_batch_size, lm.device) == (2, 4, torch.device("cpu"))
    assert lm.model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ("parent=tiny,slise=e2b", TypeError, "'slise'"),
        ({"parent": "tiny", "pretrained": "x"}, TypeError, "'pretrained'"),
        ("slice=e2b", TypeError, "'parent'"),
        ("parent=tiny,slice=e9b", ml.InputError, "no slice named 'e9b'"),
        ("parent=tiny,dtype=float33", ml.InputError, "`dtype` is 'float33'"),
        ("parent=nowhere/at/all", ml.InputError, "nowhere/at/all: no such folder"),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_it(
    arguments: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        evaluated(model_args=arguments)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ml.InputError, match="`device`: cuda:63 is not available"):
        evaluated(model_args=ARGUMENTS, device="cuda:63")


@pytest.mark.slow
def test_lm_evals_command_runs_it_once_matformer_lab_is_imported(
    by_name: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the module's docstring; a task file says where the data is, so that none is mapped."""
    from lm_eval.__main__ import cli_evaluate

    data = shutil.copytree(tiny.datasets_dir() / "matformer_lab" / TASK, tmp_path / "data")
    task = (tiny.tasks_dir() / f"{TASK}.yaml").read_text()
    task = task.replace(f"matformer_lab/{TASK}", str(data)).replace(TASK, "own_boolq")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own_boolq.yaml").write_text(task)
    arguments = ",".join(f"{key}={value}" for key, value in ARGUMENTS.items())
    command = ["lm-eval", "run", "--model", "matformer", "--model_args", arguments]
    command += ["--tasks", "own_boolq", "--include_path", str(tmp_path / "tasks")]
    command += ["--limit", str(LIMIT), "--device", "cpu", "--output_path", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    cli_evaluate()
    (written,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(written.read_text())["results"]["own_boolq"]
    assert found["acc,none"] == by_name["results"][TASK]["acc,none"]

"""Turns what lm-eval's evaluator returns into metrics and items."""

import json
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, Final

import numpy as np

from matformer_lab.evaluation.score import Metric
from matformer_lab.evaluation.tasks.loading import LoadedTask
from matformer_lab.evaluation.tasks.metric import metrics_of

EXTRACTED: Final = "extracted"
"""The column of what a filter made of the texts of an item."""


def metric_rows(task: LoadedTask, results: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the metrics of `task`, then of the tasks in it; `results` is `evaluate`'s result."""
    names = [task.name, *(name for name in results["results"] if name != task.name)]
    for name in names:
        values = results["results"][name]
        counts = values.get("sample_count", {})
        for key, value in values.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{filter_name}")
            yield Metric(
                task=name,
                group=None if name == task.name else task.name,
                metric=_metric_name(metric, filter_name),
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, int | float) else None,
                n=int(counts.get(key, values["sample_len"])),
                num_fewshot=results["n-shot"].get(name, task.num_fewshot),
                higher_is_better=_higher_is_better(task, name, metric),
                version=str(results["versions"].get(name)),
            )


def _higher_is_better(task: LoadedTask, name: str, metric: str) -> bool | None:
    """As a task says; for a group, what its tasks agree on (lm-eval misses nested groups)."""
    subtasks = [task.subtasks[name]] if name in task.subtasks else task.subtasks.values()
    said = {metrics_of(subtask).get(metric) for subtask in subtasks}
    return said.pop() if len(said) == 1 else None


def _metric_name(metric: str, filter_name: str) -> str:
    """`acc` for lm-eval's `acc,none`; other filters are kept (`exact_match,strict-match`)."""
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def item_records(task: LoadedTask, results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one record per item, with the fields that `Score` lists."""
    for name, samples in results["samples"].items():
        kind = task.subtasks[name].OUTPUT_TYPE
        by_document: dict[int, dict[str, Any]] = {}
        for sample in samples:  # one for each filter
            item = by_document.setdefault(
                sample["doc_id"],
                {"subtask": name, "doc_id": sample["doc_id"], **_answer(sample, kind)},
            )
            if kind == "generate_until":
                item[_metric_name(EXTRACTED, sample["filter"])] = _extracted(sample)
            for metric in sample["metrics"]:
                value = sample[metric]
                if isinstance(value, Real | np.bool_):
                    item[_metric_name(metric, sample["filter"])] = float(value)
        yield from by_document.values()


def _answer(sample: Mapping[str, Any], kind: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "target": sample["target"] if isinstance(sample["target"], int) else str(sample["target"]),
        "doc_hash": sample["doc_hash"],
        "prompt_hash": sample["prompt_hash"],
    }
    responses = sample["filtered_resps"]
    if kind in ("multiple_choice", "loglikelihood"):
        logprobs = [float(logprob) for logprob, _ in responses]
        answer["logprobs"] = logprobs
        answer["is_greedy"] = [bool(greedy) for _, greedy in responses]
        if kind == "multiple_choice":
            # acc_mutual_info scores every choice a second time, without its context.
            choices = len(logprobs) // (2 if "acc_mutual_info" in sample["metrics"] else 1)
            answer["choice"] = max(range(choices), key=logprobs.__getitem__)
    elif kind == "loglikelihood_rolling":
        answer["logprobs"] = [float(logprob) for logprob in responses]
    else:
        answer["responses"] = _texts(sample["resps"])
    return answer


def _texts(responses: Any) -> list[str]:
    """What the model wrote: one text for each request and each of its repeats."""
    if isinstance(responses, str):
        return [responses]
    return [text for each in responses for text in _texts(each)]


def _extracted(sample: Mapping[str, Any]) -> str:
    """What a filter made of the texts: the answer it found; several as JSON."""
    found = sample["filtered_resps"]
    while isinstance(found, list | tuple) and len(found) == 1:
        (found,) = found
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)

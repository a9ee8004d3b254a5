"""Live slices on a loaded task, scored by lm-eval's own evaluator.

What lm-eval computes is what is reported: metrics, standard errors, group aggregates. How the
log-likelihoods come about is the scorer's affair: lm-eval's own `HFLM`, or `prefix_scorer`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.evaluation.tasks import LoadedTask, quiet_lm_eval
from matformer_lab.parent.parent import Parent

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM, PreTrainedTokenizerBase

    from matformer_lab.scoring.packing import Request
    from matformer_lab.scoring.slice_scoring import Answer
    from matformer_lab.sweep.recipe import Scorer

SCORER_VERSIONS: Final[Mapping[str, int]] = {"prefix": 2, "lm-eval": 1}
"""Raised when a scorer's log-likelihoods change, so that stored scores count as stale."""

# HFLM holds a batch's logits and their log-softmax at once; on a CPU they get this many bytes.
_CPU_LOGITS_BYTES: Final = 1 << 31
_TYPICAL_TOKENS: Final = 1024
_LARGEST_CPU_BATCH: Final = 32


@dataclass(frozen=True)
class MetricRow:
    """One metric of one task, or of a task inside a group. `value` and `stderr` as lm-eval's."""

    task: str
    group: str | None
    metric: str
    value: float
    stderr: float | None
    n: int
    num_fewshot: int | None
    higher_is_better: bool | None
    version: str


@dataclass(frozen=True)
class Score:
    """Metrics, the recipe's task first, and one record per item.

    An item: subtask, doc_id, every metric of the item that is a number, target, and for
    log-likelihood tasks logprobs and is_greedy (one for each request) and choice (the likeliest).
    """

    rows: tuple[MetricRow, ...]
    items: tuple[Mapping[str, Any], ...]


def resolve_device(device: str) -> str:
    """`auto` as the first GPU or the CPU. Raises `InputError` for one that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[kind]
    if int(index or 0) >= available:
        raise InputError(f"device: {device} is not available on this machine; use auto or cpu")
    return device


def load_tokenizer(parent: Parent) -> "PreTrainedTokenizerBase":
    """The parent's tokenizer, from its folder or (small files only) from the Hub."""
    from transformers import AutoTokenizer

    try:
        if parent.folder is not None:
            return AutoTokenizer.from_pretrained(parent.folder, local_files_only=True)
        return AutoTokenizer.from_pretrained(parent.name, revision=parent.revision)
    except Exception as error:  # many kinds, none of them documented
        raise InputError(
            f"{parent.ref}: its tokenizer cannot be loaded ({one_line(error)}); scoring needs "
            "tokenizer.json and tokenizer_config.json beside the weights"
        ) from None


def make_lm(
    model: "Gemma3nForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    scorer: "Scorer",
    batch_size: int | str = "auto",
    answers: "Mapping[tuple[str, str], Answer] | None" = None,
) -> Any:
    """The live model as an lm-eval `LM`, a BOS put before every prompt, explicitly.

    `answers`: log-likelihoods the `prefix` scorer already has. Raises `InputError` where the
    tokenizer would give no BOS or two.
    """
    if batch_size == "auto" and model.device.type == "cpu":
        batch_size = _cpu_batch_size(model.config.vocab_size)
    with quiet_lm_eval():
        if scorer == "prefix":
            from matformer_lab.evaluation.prefix_scorer import PrefixScorer

            lm: Any = PrefixScorer(model, tokenizer, batch_size=batch_size, answers=answers)
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


def _cpu_batch_size(vocab_size: int) -> int:
    """lm-eval's own search for the largest batch costs more on a CPU than it gains."""
    fits = _CPU_LOGITS_BYTES // (2 * 4 * vocab_size * _TYPICAL_TOKENS)
    return max(1, min(_LARGEST_CPU_BATCH, fits))


def check_bos(lm: Any) -> int:
    """The BOS id, once it is sure that encoding a prompt gives exactly one, in front."""
    bos = lm.tokenizer.bos_token_id
    encoded = lm.tok_encode("Question: which one?")
    if bos is None or encoded[:1] != [bos] or encoded.count(bos) != 1:
        raise InputError(
            f"the parent's tokenizer starts a prompt with {encoded[:2]} where exactly one BOS "
            f"({bos}) is expected; scores without it would be wrong. Check tokenizer.json's "
            "post-processor"
        )
    return int(bos)


def score_together(
    models: "Mapping[str, Gemma3nForCausalLM]",
    tokenizer: "PreTrainedTokenizerBase",
    task: LoadedTask,
    *,
    scorer: "Scorer",
    batch_size: int | str = "auto",
    progress: Callable[[float], None] = lambda _: None,
) -> Iterator[tuple[str, Score, float]]:
    """Score live slices of one parent on `task`: name, score and seconds of each.

    `prefix` takes all of them through the requests in one pass, the layers they share once, and
    then has all scores; `lm-eval` takes one slice after the other. `progress` is called with the
    share of the work done, 0 to 1.
    """
    known: Mapping[str, Sequence[Answer]] = {}
    requests = [each for each in task.requests if each.request_type == "loglikelihood"]
    began = time.perf_counter()
    if scorer == "prefix" and requests:
        from matformer_lab.scoring.slice_scoring import score_slices

        encoder = make_lm(next(iter(models.values())), tokenizer, scorer=scorer)
        known = score_slices(
            models,
            _encoded_once(task, requests, encoder),
            progress=lambda done, count: progress(done / count),
        )
    shared = (time.perf_counter() - began) / len(models)
    for number, (name, model) in enumerate(models.items(), 1):
        began = time.perf_counter()
        arguments = (request.args for request in requests)
        answers = dict(zip(arguments, known[name], strict=True)) if known else None
        lm = make_lm(model, tokenizer, scorer=scorer, batch_size=batch_size, answers=answers)
        result = score(lm, task)
        if not known:
            progress(number / len(models))
        yield name, result, shared + time.perf_counter() - began


_latest_encoded: "dict[Any, list[Request]]" = {}


def _encoded_once(task: LoadedTask, requests: Sequence[Any], lm: Any) -> "list[Request]":
    """`requests` of `task` encoded, which takes a minute for HellaSwag, once for all passes.

    Only the latest task's are kept: a sweep goes through one task after the other. Tasks are equal
    where their prompts are. Raises `InputError` for an answer longer than the model can read.
    """
    key = task, lm.tokenizer, lm.max_length
    if key not in _latest_encoded:
        _latest_encoded.clear()
        try:
            _latest_encoded[key] = lm.encode(requests)
        except ValueError as error:
            raise InputError(f"tasks: {task.name} cannot be scored: {error}") from None
    return _latest_encoded[key]


def score(lm: Any, task: LoadedTask) -> Score:
    """Score `lm` on every request of `task`."""
    from lm_eval.evaluator import evaluate

    with quiet_lm_eval(), _requests_built(task):
        results = evaluate(lm=lm, task_dict=task.task_dict, limit=task.limit)
    return Score(rows=tuple(_rows(task, results)), items=tuple(_items(task, results)))


@contextmanager
def _requests_built(task: LoadedTask) -> Iterator[None]:
    """Let lm-eval's evaluator use the requests that are there instead of building them anew."""

    def keep(requests: list[Any]) -> Callable[..., None]:
        def build_all_requests(**_: Any) -> None:
            for request in requests:
                request.resps = []
                request.filtered_resps = {}

        return build_all_requests

    tasks = task.subtasks.values()
    for subtask in tasks:
        subtask.build_all_requests = keep(subtask.instances)
    try:
        yield
    finally:
        for subtask in tasks:
            del subtask.build_all_requests


def _rows(task: LoadedTask, results: Mapping[str, Any]) -> Iterator[MetricRow]:
    names = [task.name, *(name for name in results["results"] if name != task.name)]
    for name in names:
        values = results["results"][name]
        counts = values.get("sample_count", {})
        for key, value in values.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{filter_name}")
            yield MetricRow(
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
    """A task's own word; for a group, what its tasks agree on (lm-eval misses nested groups)."""
    members = [task.subtasks[name]] if name in task.subtasks else task.subtasks.values()
    said = {member.higher_is_better().get(metric) for member in members}
    return said.pop() if len(said) == 1 else None


def _metric_name(metric: str, filter_name: str) -> str:
    """`acc` for lm-eval's `acc,none`; other filters stay visible (`exact_match,strict-match`)."""
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def _items(task: LoadedTask, results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, samples in results["samples"].items():
        kind = task.subtasks[name].OUTPUT_TYPE
        by_document: dict[int, dict[str, Any]] = {}
        for sample in samples:  # one for each filter
            item = by_document.setdefault(
                sample["doc_id"],
                {"subtask": name, "doc_id": sample["doc_id"], **_answer(sample, kind)},
            )
            for metric in sample["metrics"]:
                value = sample[metric]
                if isinstance(value, int | float):
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
            # acc_mutual_info asks for every choice again without its context.
            choices = len(logprobs) // (2 if "acc_mutual_info" in sample["metrics"] else 1)
            answer["choice"] = max(range(choices), key=logprobs.__getitem__)
    elif kind == "loglikelihood_rolling":
        answer["logprobs"] = [float(logprob) for logprob in responses]
    else:
        answer["response"] = str(responses[0])
    return answer

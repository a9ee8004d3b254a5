"""One model scored by this package and by lm-eval's HFLM: time, tokens, and how far they differ.

    python benchmarks/score.py --datasets DIR [--tasks hellaswag mmlu boolq unrelated] [--items 24]

Both score the same live model on the same requests, taking turns; every time is the median over
`--repeats`, encoding included. HFLM batches 8 requests and we `--batch-tokens` tokens, of which
HFLM's batches of long prompts hold as many or more (its largest is printed). With `--truth float32`
(or float64) both are also compared with HFLM in that precision on the same rounded weights; in
bfloat16 they always are. `unrelated` is the worst case for sharing: BoolQ's passages, each with its
own question as the one continuation.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from transformers import AutoTokenizer, Gemma3nForCausalLM

from benchmarks.random_parent import write_random_parent
from matformer_lab.evaluation.models.lm import make_lm
from matformer_lab.evaluation.models.prefix_scorer import PrefixScorer
from matformer_lab.evaluation.quiet import quiet_lm_eval
from matformer_lab.evaluation.tasks.entry import TaskEntry
from matformer_lab.evaluation.tasks.loading import LoadedTask, load_tasks
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.slice_scoring import Answer, batches_of
from matformer_lab.slicing.slice import Slice

NUM_FEWSHOT = {"hellaswag": 10, "boolq": 0, "mmlu": 5}
UNRELATED = "unrelated"
BATCH_SIZE = 8
Result = TypeVar("Result")


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_random_parent(Path(scratch) / "parent", arguments.hidden_size, dtype)
        parent = open_parent(str(folder))
        full = Slice("full", parent.text.intermediate_size)
        model = ElasticParent.load(parent, dtype=dtype, device=arguments.device).live(full)
        truth = None
        if arguments.truth:
            # The same weights, so that only the arithmetic differs.
            exact = getattr(torch, arguments.truth)
            truth = ElasticParent.load(parent, dtype=exact, device=arguments.device).live(full)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        print(
            f"35 layers of hidden size {arguments.hidden_size}, {arguments.dtype}, "
            f"{arguments.device}, {arguments.threads} thread(s); "
            f"HFLM batch {BATCH_SIZE}, ours {arguments.batch_tokens} tokens"
        )
        for name in arguments.tasks:
            if name == UNRELATED:
                requests = unrelated(load("boolq", arguments.items, arguments).requests)
            elif name == "mmlu":
                task = load(name, arguments.mmlu_items, arguments)
                subjects = list(task.subtasks)[: arguments.mmlu_subjects]
                requests = [each for each in task.requests if each.task_name in subjects]
            else:
                requests = load(name, arguments.items, arguments).requests
            compare(name, requests, model, truth, tokenizer, arguments)


def load(name: str, limit: int | None, arguments: argparse.Namespace) -> LoadedTask:
    entry = TaskEntry(name=name, num_fewshot=NUM_FEWSHOT[name])
    (task,) = load_tasks([entry], limit=limit, seed=1234, datasets=arguments.datasets)
    return task


def unrelated(requests: Sequence[Any]) -> list[Instance]:
    """One request a BoolQ item: its passage, and its question to continue it."""
    docs = {request.doc_id: request.doc for request in requests}
    return [
        Instance(
            request_type="loglikelihood",
            doc=doc,
            arguments=(doc["passage"], f" {doc['question']}?"),
            idx=0,
            metadata=(UNRELATED, number, 1),
        )
        for number, doc in docs.items()
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [*NUM_FEWSHOT, UNRELATED]
    parser.add_argument("--datasets", type=Path, required=True, help="local dataset folders")
    parser.add_argument("--tasks", nargs="+", choices=names, default=names)
    parser.add_argument("--items", type=int, default=16, help="of HellaSwag and BoolQ")
    parser.add_argument("--mmlu-subjects", type=int, default=57, help="of MMLU's 57")
    parser.add_argument("--mmlu-items", type=int, help="of each subject; all of them by default")
    parser.add_argument("--hidden-size", type=int, default=128, help="E4B has 2048")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--truth", choices=["float32", "float64"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.dtype == "bfloat16":
        arguments.truth = arguments.truth or "float32"
    return arguments


def compare(
    name: str,
    requests: list[Any],
    model: Gemma3nForCausalLM,
    truth: Gemma3nForCausalLM | None,
    tokenizer: Any,
    arguments: argparse.Namespace,
) -> None:
    theirs = make_lm(model, tokenizer, scorer="lm-eval", batch_size=BATCH_SIZE)
    with quiet_lm_eval():
        ours = PrefixScorer(model, tokenizer, batch_tokens=arguments.batch_tokens)
    encoded = ours.encode(requests)
    batches = list(batches_of(model, encoded, TokenBudget(arguments.batch_tokens)))
    their_batches = hflm_batches(encoded)

    our_times, their_times = [], []
    for _ in range(arguments.repeats):
        our_answers, seconds = clocked(lambda: ours.loglikelihood(requests))
        our_times.append(seconds)
        their_answers, seconds = clocked(lambda: theirs.loglikelihood(requests))
        their_times.append(seconds)

    ratios = [b.wall / a.wall for a, b in zip(our_times, their_times, strict=True)]
    cpu_ratios = [b.cpu / a.cpu for a, b in zip(our_times, their_times, strict=True)]
    our_tokens = sum(batch.input_ids.size for batch in batches)
    print(f"\n{name}: {len(requests)} requests, {NUM_FEWSHOT.get(name, 0)}-shot")
    print(
        f"  tokens with padding: HFLM {sum(their_batches)} (largest batch {max(their_batches)}), "
        f"ours {our_tokens} (largest {max(batch.input_ids.size for batch in batches)}), "
        f"ratio {sum(their_batches) / our_tokens:.2f}"
    )
    print(
        f"  seconds: HFLM {median(their_times):.2f}, ours {median(our_times):.2f}, "
        f"ratio {statistics.median(ratios):.2f} [{min(ratios):.2f} to {max(ratios):.2f}], "
        f"of CPU time {statistics.median(cpu_ratios):.2f}"
    )
    print(f"  ours against HFLM: {differences(requests, our_answers, their_answers)}")
    if truth is not None:
        lm = make_lm(truth, tokenizer, scorer="lm-eval", batch_size=BATCH_SIZE)
        exact, _ = clocked(lambda: lm.loglikelihood(requests))
        print(f"  HFLM against {arguments.truth}: {differences(requests, their_answers, exact)}")
        print(f"  ours against {arguments.truth}: {differences(requests, our_answers, exact)}")


class Seconds:
    def __init__(self, wall: float, cpu: float) -> None:
        self.wall = wall
        self.cpu = cpu


def clocked(work: Callable[[], Result]) -> tuple[Result, Seconds]:
    wall, cpu = time.perf_counter(), time.process_time()
    with quiet_lm_eval():
        result = work()
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def median(times: Sequence[Seconds]) -> float:
    return statistics.median(each.wall for each in times)


def hflm_batches(requests: Sequence[Request]) -> list[int]:
    """Tokens of HFLM's batches: distinct inputs, longest first, padded to the longest."""
    lengths = sorted((len(each) for each in {request.inputs for request in requests}), reverse=True)
    chunks = [lengths[n : n + BATCH_SIZE] for n in range(0, len(lengths), BATCH_SIZE)]
    return [len(chunk) * chunk[0] for chunk in chunks]


def differences(requests: Sequence[Any], one: Sequence[Answer], other: Sequence[Answer]) -> str:
    deltas = [abs(a - b) for (a, _), (b, _) in zip(one, other, strict=True)]
    flips = sum(a != b for (_, a), (_, b) in zip(one, other, strict=True))
    chosen, expected = choices(requests, one), choices(requests, other)
    changed = sum(chosen[item] != expected[item] for item in chosen)
    return (
        f"|delta logprob| at most {max(deltas):.2g}, mean {statistics.mean(deltas):.2g}; "
        f"greedy flags that differ: {flips}; choices that differ: {changed} of {len(chosen)}"
    )


def choices(requests: Sequence[Any], answers: Sequence[Answer]) -> dict[tuple[str, int], int]:
    scores: dict[tuple[str, int], list[float]] = {}
    for request, (logprob, _) in zip(requests, answers, strict=True):
        scores.setdefault((request.task_name, request.doc_id), []).append(logprob)
    return {item: max(range(len(each)), key=each.__getitem__) for item, each in scores.items()}


if __name__ == "__main__":
    main()

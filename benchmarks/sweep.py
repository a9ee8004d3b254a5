"""The 16 published slices of a random 35-layer parent, scored three ways.

    python benchmarks/sweep.py --datasets DIR [--task hellaswag] [--items 2] [--naive 2]

1. `score_slices` over all of them against HFLM on each: same live models, one process, by turns.
2. Peak memory of `score_slices` in a process of its own, for 1, 4 and 16 slices.
3. The whole sweep from the command line's start to the scores in one process, against the naive
   one: extract a slice, start a fresh `lm_eval` on it, and so on. `--naive N` runs N slices of the
   naive sweep and extrapolates to 16.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from random_parent import write_random_parent
from transformers import AutoTokenizer

from matformer_lab.catalog import resolve_slices
from matformer_lab.elastic import ElasticParent
from matformer_lab.parent import open_parent
from matformer_lab.prefix_scorer import PrefixScorer
from matformer_lab.recipe import TaskEntry
from matformer_lab.scoring import make_lm, score
from matformer_lab.slice_scoring import layer_keys, score_slices
from matformer_lab.slice_trie import build_trie
from matformer_lab.tasks import load_tasks, quiet_lm_eval

NUM_FEWSHOT = {"hellaswag": 10, "boolq": 0, "mmlu": 5}
BATCH_SIZE = 8


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "parent"
        write_random_parent(folder, arguments.hidden_size, torch.float32)
        side_by_side(folder, arguments)
        memory(folder, arguments)
        if arguments.naive:
            whole_sweep(folder, Path(scratch), arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--datasets", type=Path, required=True, help="local dataset folders")
    parser.add_argument("--task", choices=NUM_FEWSHOT, default="hellaswag")
    parser.add_argument("--items", type=int, default=2, help="documents (of each MMLU subject)")
    parser.add_argument("--hidden-size", type=int, default=64, help="E4B has 2048")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--naive", type=int, default=0, help="slices of the naive sweep to run")
    return parser.parse_args()


class Sweep:
    """Everything loaded, as one process of a sweep has it."""

    def __init__(self, folder: Path, arguments: argparse.Namespace, slices: int = 16) -> None:
        parent = open_parent(str(folder))
        elastic = ElasticParent.load(parent)
        published = resolve_slices(["published"], parent.text, Path())[:slices]
        self.models = {each.name: elastic.live(each) for each in published}
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        entry = TaskEntry(name=arguments.task, num_fewshot=NUM_FEWSHOT[arguments.task])
        (self.task,) = load_tasks(
            [entry], limit=arguments.items, seed=1234, datasets=arguments.datasets
        )
        self.batch_tokens = arguments.batch_tokens

    def ours(self) -> dict[str, Any]:
        model = next(iter(self.models.values()))
        with quiet_lm_eval():
            encoded = PrefixScorer(model, self.tokenizer).encode(self.task.requests)
        return score_slices(self.models, encoded, batch_tokens=self.batch_tokens)

    def hflm(self) -> dict[str, Any]:
        answers = {}
        for name, model in self.models.items():
            lm = make_lm(model, self.tokenizer, batch_size=BATCH_SIZE)
            with quiet_lm_eval():
                answers[name] = lm.loglikelihood(self.task.requests)
        return answers


def side_by_side(folder: Path, arguments: argparse.Namespace) -> None:
    sweep = Sweep(folder, arguments)
    trie = build_trie({name: layer_keys(model) for name, model in sweep.models.items()})
    layers = sum(len(model.model.layers) for model in sweep.models.values())
    print(
        f"{len(sweep.models)} slices, hidden size {arguments.hidden_size}, fp32, 1 thread, "
        f"{arguments.task} {NUM_FEWSHOT[arguments.task]}-shot, {len(sweep.task.requests)} requests"
    )
    print(f"layer forwards: {layers} -> {trie.layer_forwards()}")
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        our_answers = timed(sweep.ours, ours)
        their_answers = timed(sweep.hflm, theirs)
    ratios = [b / a for (a, _), (b, _) in zip(ours, theirs, strict=True)]
    cpu_ratios = [b / a for (_, a), (_, b) in zip(ours, theirs, strict=True)]
    largest = max(
        abs(a - b)
        for name in sweep.models
        for (a, _), (b, _) in zip(our_answers[name], their_answers[name], strict=True)
    )
    print(
        f"seconds: HFLM on each {statistics.median(wall for wall, _ in theirs):.1f}, "
        f"score_slices {statistics.median(wall for wall, _ in ours):.1f}, "
        f"ratio {statistics.median(ratios):.1f} [{min(ratios):.1f} to {max(ratios):.1f}], "
        f"of CPU time {statistics.median(cpu_ratios):.1f}; |delta logprob| at most {largest:.2g}"
    )


def timed(work: Callable[[], Any], times: list[tuple[float, float]]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return result


def memory(folder: Path, arguments: argparse.Namespace) -> None:
    for slices in (1, 4, 16):
        peak = in_a_process(_peak_memory, folder, arguments, slices)
        print(f"peak memory with {slices} slice(s): {peak / 2**20:.0f} MiB while scoring")


def _peak_memory(folder: Path, arguments: argparse.Namespace, slices: int) -> float:
    torch.set_num_threads(1)
    sweep = Sweep(folder, arguments, slices)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sweep.ours()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def whole_sweep(folder: Path, scratch: Path, arguments: argparse.Namespace) -> None:
    began = time.perf_counter()
    in_a_process(_our_sweep, folder, arguments)
    ours = time.perf_counter() - began

    names = [
        each.name for each in resolve_slices(["published"], open_parent(str(folder)).text, Path())
    ]
    step = max(1, len(names) // arguments.naive)
    seconds = [naive(folder, name, scratch, arguments) for name in names[::step][: arguments.naive]]
    all_of_them = statistics.mean(seconds) * len(names)
    print(
        f"whole sweep: naive {all_of_them:.0f} s (from {len(seconds)} slices, "
        f"{statistics.mean(seconds):.1f} s each), ours {ours:.1f} s, ratio {all_of_them / ours:.1f}"
    )


def _our_sweep(folder: Path, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    sweep = Sweep(folder, arguments)
    answers = sweep.ours()
    for name, model in sweep.models.items():
        known = dict(zip((each.args for each in sweep.task.requests), answers[name], strict=True))
        with quiet_lm_eval():
            lm = PrefixScorer(model, sweep.tokenizer, answers=known)
        score(lm, sweep.task)


def naive(folder: Path, name: str, scratch: Path, arguments: argparse.Namespace) -> float:
    """Seconds to extract one slice and run lm-eval's own command on it."""
    out = scratch / f"naive-{name}"
    root = Path(__file__).resolve().parent.parent
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    slice_command = ["-m", "matformer_lab", "slice", folder, "--slice", name, "--out", out]
    lm_eval_command = [
        *("-m", "lm_eval", "run", "--model", "hf"),
        *("--model_args", f"pretrained={out},dtype=float32,add_bos_token=True"),
        *("--tasks", arguments.task, "--num_fewshot", NUM_FEWSHOT[arguments.task]),
        *("--limit", arguments.items, "--batch_size", BATCH_SIZE, "--device", "cpu"),
    ]
    began = time.perf_counter()
    for command in (slice_command, lm_eval_command):
        subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=arguments.datasets,  # where "Rowan/hellaswag" is a folder
            env=environment,
            check=True,
            capture_output=True,
        )
    return time.perf_counter() - began


def in_a_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `work(*arguments)` in a fresh interpreter."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


if __name__ == "__main__":
    main()

"""The 16 published slices of a random 35-layer parent, scored three ways.

    python benchmarks/sweep.py --datasets DIR [--task hellaswag] [--items 2] [--naive 2]

1. `score_slices` over all of them against HFLM on each: same live models, one process, by turns.
2. Peak memory of `matformer-lab sweep` over 1, 8, 16 and 64 slices.
3. `matformer-lab sweep`, from the start of the command to its report, against the naive sweep:
   extract a slice, start a fresh `lm_eval` on it, and so on. `--naive N` runs N slices of the naive
   sweep and extrapolates to 16.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.measure import Run, timed
from benchmarks.random_parent import write_random_parent
from benchmarks.score import BATCH_SIZE, NUM_FEWSHOT, clocked, hflm_batches, median
from matformer_lab.evaluation.models.lm import make_lm
from matformer_lab.evaluation.models.prefix_scorer import PrefixScorer
from matformer_lab.evaluation.quiet import quiet_lm_eval
from matformer_lab.evaluation.tasks.entry import TaskEntry
from matformer_lab.evaluation.tasks.loading import load_tasks
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.slice_scoring import batches_of, layer_keys, score_slices
from matformer_lab.scoring.slice_trie import build_trie
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.slice import Slice


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "parent"
        write_random_parent(folder, arguments.hidden_size, torch.float32)
        side_by_side(folder, arguments)
        memory(folder, Path(scratch), arguments)
        if arguments.naive:
            whole_sweep(folder, Path(scratch), arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--datasets", type=Path, required=True, help="local dataset folders")
    parser.add_argument("--task", default="hellaswag", help="or boolq, mmlu, mmlu_anatomy, ...")
    parser.add_argument("--items", type=int, default=2, help="documents (of each MMLU subject)")
    parser.add_argument("--hidden-size", type=int, default=64, help="E4B has 2048")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--naive", type=int, default=0, help="slices of the naive sweep to run")
    arguments = parser.parse_args()
    benchmark = arguments.task.partition("_")[0]
    if benchmark not in NUM_FEWSHOT:
        parser.error(f"--task {arguments.task}: hellaswag, boolq, mmlu or one of MMLU's subjects")
    arguments.num_fewshot = NUM_FEWSHOT[benchmark]
    return arguments


def published(folder: Path) -> tuple[Slice, ...]:
    return resolve_slices(["published"], open_parent(str(folder)))


class Sweep:
    """Everything loaded, as one process of a sweep has it."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        parent = open_parent(str(folder))
        elastic = ElasticParent.load(parent)
        self.models = {each.name: elastic.live(each) for each in published(folder)}
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        entry = TaskEntry(name=arguments.task, num_fewshot=arguments.num_fewshot)
        (self.task,) = load_tasks(
            [entry], limit=arguments.items, seed=1234, datasets=arguments.datasets
        )
        self.budget = TokenBudget(arguments.batch_tokens)

    def encoded(self) -> list[Request]:
        model = next(iter(self.models.values()))
        with quiet_lm_eval():
            return PrefixScorer(model, self.tokenizer).encode(self.task.requests)

    def ours(self) -> dict[str, Any]:
        return score_slices(self.models, self.encoded(), budget=self.budget)

    def hflm(self) -> dict[str, Any]:
        answers = {}
        for name, model in self.models.items():
            lm = make_lm(model, self.tokenizer, scorer="lm-eval", batch_size=BATCH_SIZE)
            with quiet_lm_eval():
                answers[name] = lm.loglikelihood(self.task.requests)
        return answers


def side_by_side(folder: Path, arguments: argparse.Namespace) -> None:
    sweep = Sweep(folder, arguments)
    trie = build_trie({name: layer_keys(model) for name, model in sweep.models.items()})
    layers = sum(len(model.model.layers) for model in sweep.models.values())
    print(
        f"{len(sweep.models)} slices, hidden size {arguments.hidden_size}, fp32, 1 thread, "
        f"{arguments.task} {arguments.num_fewshot}-shot, {len(sweep.task.requests)} requests"
    )
    print(f"layer forwards: {layers} -> {trie.layer_forwards()}")
    encoded = sweep.encoded()
    batches = list(batches_of(next(iter(sweep.models.values())), encoded, sweep.budget))
    their_tokens = sum(hflm_batches(encoded)) * layers
    our_tokens = sum(batch.input_ids.size for batch in batches) * trie.layer_forwards()
    print(
        f"tokens through layers, with padding: HFLM {their_tokens:,}, ours at most {our_tokens:,} "
        f"(scored ones only where K/V is shared), ratio {their_tokens / our_tokens:.1f}"
    )
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        our_answers, seconds = clocked(sweep.ours)
        ours.append(seconds)
        their_answers, seconds = clocked(sweep.hflm)
        theirs.append(seconds)
    ratios = [b.wall / a.wall for a, b in zip(ours, theirs, strict=True)]
    cpu_ratios = [b.cpu / a.cpu for a, b in zip(ours, theirs, strict=True)]
    largest = max(
        abs(a - b)
        for name in sweep.models
        for (a, _), (b, _) in zip(our_answers[name], their_answers[name], strict=True)
    )
    print(
        f"seconds: HFLM on each {median(theirs):.1f}, "
        f"score_slices {median(ours):.1f}, "
        f"ratio {statistics.median(ratios):.1f} [{min(ratios):.1f} to {max(ratios):.1f}], "
        f"of CPU time {statistics.median(cpu_ratios):.1f}; |delta logprob| at most {largest:.2g}"
    )


def memory(folder: Path, scratch: Path, arguments: argparse.Namespace) -> None:
    peaks = []
    for count in (1, 8, 16, 64):
        sample = {"sample": count, "widths": ["1/2", "3/4", "full"], "by": "layer", "seed": 0}
        command = sweep_command(folder, scratch, f"sweep-of-{count}", [sample], arguments)
        peak = run("matformer_lab", *command, cwd=scratch).peak_anonymous_mb
        peaks.append(f"{count}: {peak:.0f} MB")
    print(f"peak anonymous memory of a sweep of so many slices: {', '.join(peaks)}")


def sweep_command(
    folder: Path, scratch: Path, name: str, slices: Sequence[Any], arguments: argparse.Namespace
) -> list[object]:
    recipe = {
        "parent": str(folder),
        "slices": slices,
        "tasks": [{"name": arguments.task, "num_fewshot": arguments.num_fewshot}],
        "limit": arguments.items,
        "dtype": "float32",
        "device": "cpu",
    }
    written = scratch / f"{name}.yaml"
    written.write_text(json.dumps(recipe))
    return ["sweep", written, "--out", scratch / name, "--datasets", arguments.datasets.resolve()]


def whole_sweep(folder: Path, scratch: Path, arguments: argparse.Namespace) -> None:
    command = sweep_command(folder, scratch, "sweep", ["published"], arguments)
    ours = run("matformer_lab", *command, cwd=scratch).seconds
    names = [each.name for each in published(folder)]
    step = max(1, len(names) // arguments.naive)
    each = []
    for name in names[::step][: arguments.naive]:
        out = scratch / f"naive-{name}"
        extraction = run("matformer_lab", "slice", folder, "--slice", name, "--out", out)
        scoring = run(
            *("lm_eval", "run", "--model", "hf", "--device", "cpu"),
            *("--model_args", f"pretrained={out},dtype=float32,add_bos_token=True"),
            *("--tasks", arguments.task, "--num_fewshot", arguments.num_fewshot),
            *("--limit", arguments.items, "--batch_size", BATCH_SIZE),
            cwd=arguments.datasets,  # where "Rowan/hellaswag" is a folder
        )
        each.append(extraction.seconds + scoring.seconds)
    naive = statistics.mean(each) * len(names)
    print(
        f"whole sweep: naive {naive:.0f} s (from {len(each)} slices, "
        f"{statistics.mean(each):.1f} s each), ours {ours:.1f} s, ratio {naive / ours:.1f}"
    )


def run(module: str, *arguments: object, cwd: Path | None = None) -> Run:
    """`python -m module arguments` with one thread and no network. Linux only."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return timed([sys.executable, "-m", module, *arguments], cwd=cwd, env=environment)


if __name__ == "__main__":
    main()

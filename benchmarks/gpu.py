"""What a GPU makes of E4B's size with random weights in bf16: one table, in at most 8 minutes.

    python benchmarks/gpu.py --datasets DIR --prepare requests.json   # on any machine: 3 minutes
    python benchmarks/gpu.py --requests requests.json --out gpu.json  # on the GPU
    python benchmarks/gpu.py --datasets DIR --dry                     # a miniature on the CPU

Samples: 48 items of HellaSwag (10-shot), 96 of BoolQ, one of each of MMLU's 57 subjects (5-shot).
Times are medians of up to `--repeats` rounds after one that warms up; the first round of compiled
layers is given by itself. Whatever does not begin before `--seconds` have passed is left out and
said to be. The file is written anew after each row. `floor` is the share of the chip's peak
(`--peak-tflops`) in the FLOPs of the packed tokens' matrix products, padding not counted.

The weights are drawn on the device. The prompts are encoded by the embedded parent's tokenizer, its
ids spread over the vocabulary, so that look-ups are as scattered as Gemma's.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Gemma3nForCausalLM

from benchmarks.random_parent import write_random_parent
from benchmarks.score import BATCH_SIZE, NUM_FEWSHOT
from matformer_lab import tiny
from matformer_lab.evaluation.models.lm import make_lm
from matformer_lab.evaluation.models.prefix_scorer import PrefixScorer
from matformer_lab.evaluation.quiet import quiet_lm_eval
from matformer_lab.evaluation.tasks.entry import TaskEntry
from matformer_lab.evaluation.tasks.loading import load_tasks
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import (
    TokenBudget,
    accelerator_budget,
    budget_for,
)
from matformer_lab.scoring.slice_scoring import batches_of, score_slices
from matformer_lab.slicing.builtin_slices import e4b_text_parent
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of
from matformer_lab.sweep.passes import SLICES_PER_PASS

ALL_ITEMS = {"hellaswag": 10_042, "boolq": 3_270, "mmlu": 14_042}
SAMPLE = {"hellaswag": 48, "boolq": 96, "mmlu": 1}
GOALS = {"hellaswag": "8x", "boolq": "2x", "mmlu": "6x"}
MAX_LENGTH = 32_768
"""E4B's."""
TABLE = "embed_tokens_per_layer.weight"
CLASSES = {
    "matrix products": ("gemm", "cutlass", "nvjet", "cublas", "xmma", "aten::mm", "aten::addmm"),
    "attention": ("flex", "flash", "fmha", "attention"),
    "copies": ("memcpy", "copy", "memset", "aten::cat", "catarray"),
    "element-wise": (),  # all else
}
Requests = dict[str, tuple[int, list[Request]]]
"""By task: how many items, and their requests."""


@dataclass
class Record:
    """What was measured so far, in a file and on the screen."""

    out: Path | None
    until: float
    rows: list[dict[str, str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def left(self) -> float:
        return self.until - time.monotonic()

    def row(self, name: str, found: str, goal: str = "") -> None:
        self.rows.append({"row": name, "found": found, "goal": goal})
        print(f"{name:52}  {found:34}  {goal}", flush=True)
        self.save()

    def save(self) -> None:
        if self.out is not None:
            self.out.write_text(json.dumps({"rows": self.rows, **self.figures}, indent=2) + "\n")

    def measured(self, name: str, work: Callable[[], Any], repeats: int) -> float | None:
        """Median seconds; None, and a row that says so, where there is no time left to begin."""
        if self.left() <= 0:
            self.row(name, "left out: no time left")
            return None
        times = [seconds_of(work)]
        self.figures.setdefault("first_round_s", {})[name] = round(times[0], 3)
        while len(times) <= repeats and self.left() > times[-1]:
            times.append(seconds_of(work))
        best = statistics.median(times[1:] or times)
        self.figures.setdefault("seconds", {})[name] = round(best, 4)
        return best


def main() -> None:
    arguments = parse()
    if arguments.prepare:
        arguments.prepare.write_text(json.dumps(as_json(prepared(arguments.datasets, SAMPLE))))
        return
    record = Record(arguments.out, time.monotonic() + arguments.seconds)
    if arguments.dry:
        torch.set_num_threads(1)
        requests = prepared(arguments.datasets, {"hellaswag": 2, "boolq": 2, "mmlu_anatomy": 2})
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_random_parent(Path(scratch) / "parent", 32, torch.bfloat16)
            elastic = ElasticParent.load(open_parent(str(folder)), dtype=torch.bfloat16)
            measure(elastic, requests, record, arguments)
        return
    if arguments.requests:
        requests = from_json(json.loads(arguments.requests.read_text()))
    else:
        requests = prepared(arguments.datasets, SAMPLE)
    measure(random_e4b("cuda"), requests, record, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--datasets", type=Path, help="local dataset folders")
    parser.add_argument("--prepare", type=Path, help="write the sample's requests and end")
    parser.add_argument("--requests", type=Path, help="what --prepare wrote")
    parser.add_argument("--out", type=Path, help="the file of figures")
    parser.add_argument("--seconds", type=float, default=400.0, help="nothing begins after these")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bf16, dense (H100 SXM)")
    parser.add_argument("--dry", action="store_true", help="a miniature on the CPU")
    arguments = parser.parse_args()
    if not (arguments.datasets or arguments.requests):
        parser.error("--datasets is needed without --requests")
    return arguments


def prepared(datasets: Path, sample: Mapping[str, int]) -> Requests:
    """The sample's requests, encoded by the embedded parent's tokenizer."""
    model = ElasticParent.load(open_parent("tiny"), slices=["e2b"]).live("e2b")
    tokenizer = AutoTokenizer.from_pretrained(tiny.model_dir())
    found = {}
    for name, limit in sample.items():
        benchmark = name.partition("_")[0]
        entry = TaskEntry(name=name, num_fewshot=NUM_FEWSHOT[benchmark])
        (task,) = load_tasks([entry], limit=limit, seed=1234, datasets=datasets)
        with quiet_lm_eval():
            encoder = PrefixScorer(model, tokenizer, max_length=MAX_LENGTH)
            found[benchmark] = task.items, encoder.encode(task.requests)
    return found


def as_json(requests: Requests) -> dict[str, Any]:
    return {
        task: {"items": items, "requests": [[each.inputs, each.targets] for each in of]}
        for task, (items, of) in requests.items()
    }


def from_json(written: Mapping[str, Any]) -> Requests:
    return {
        task: (of["items"], [Request(tuple(a), tuple(b)) for a, b in of["requests"]])
        for task, of in written.items()
    }


def random_e4b(device: str) -> ElasticParent:
    """E4B's text tensors, drawn on the device; the per-layer table is one block many times."""
    parent = e4b_text_parent()
    torch.manual_seed(0)
    weights = {}
    for full, info in parent.tensors.items():
        name = full.removeprefix(parent.prefix)
        if name == TABLE:
            weights[name] = torch.empty(info.shape, dtype=torch.bfloat16)
            block = torch.empty(4096, info.shape[1], dtype=torch.bfloat16).uniform_(-0.03, 0.03)
            for part in torch.split(weights[name], 4096):
                part.copy_(block[: len(part)])
        else:
            weight = torch.empty(info.shape, dtype=torch.bfloat16, device=device)
            weights[name] = weight.uniform_(-0.03, 0.03)
    return ElasticParent(parent, torch.bfloat16, device, weights)


def measure(
    elastic: ElasticParent, requests: Requests, record: Record, arguments: argparse.Namespace
) -> None:
    parent, device = elastic.parent, elastic.device
    slices = resolve_slices(["published"], parent, Path())
    (full,) = (each for each in slices if each.name == "e4b")
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU, dry run"
    record.figures |= {"card": card, "torch": torch.__version__, "date": str(date.today())}
    print(f"{card}; torch {torch.__version__}; bf16, hidden size {parent.text.hidden_size}")

    models = {each.name: elastic.live(each) for each in slices}
    model = models["e4b"]
    tokenizer = AutoTokenizer.from_pretrained(tiny.model_dir())
    planned = sizes_of(make_plan(parent, full)).accelerator_bytes
    record.row("plan, device bytes", gb(planned))
    record.row("after loading", gb(memory(device)))
    spread_out = {
        task: (items, spread(of, parent.text.vocab_size, len(tokenizer)))
        for task, (items, of) in requests.items()
    }
    budget = budget_for(model, compiled=True) if device == "cuda" else TokenBudget(2048, 2048)
    if device != "cuda":
        budget = replace(budget, mode="one row")
    record.figures["budget"] = vars(budget)
    seconds = one_slice(model, tokenizer, spread_out, budget, record, arguments)
    all_slices(models, spread_out, budget, seconds, record, arguments)
    memory_where_it_is_short(models, spread_out, planned, record)
    table_on_device(elastic, full, spread_out, budget, seconds, record, arguments)
    profile(model, spread_out["hellaswag"][1], budget, seconds.get("hellaswag"), record)
    print_table(record)


def one_slice(
    model: Gemma3nForCausalLM,
    tokenizer: Any,
    requests: Requests,
    budget: TokenBudget,
    record: Record,
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """One slice by this package, without compiling, and by HFLM."""
    found = {}
    hflm = make_lm(model, tokenizer, scorer="lm-eval", batch_size=BATCH_SIZE)
    rows = replace(budget, mode="rows")
    for task, (items, of) in requests.items():
        tokens = sum(len(request.inputs) for request in of)
        batches = list(batches_of(model, of, budget))
        record.row(
            f"{task}: {items} items, {len(of)} requests",
            f"{tokens:,} tokens, {sum(b.tokens for b in batches):,} in {len(batches)} batches",
        )

        def ours(of: list[Request] = of, budget: TokenBudget = budget) -> None:
            score_slices({"": model}, of, budget=budget)

        def in_rows(of: list[Request] = of) -> None:
            score_slices({"": model}, of, budget=rows)

        encoded = [
            (("", ""), list(r.inputs[: len(r.inputs) - len(r.targets) + 1]), list(r.targets))
            for r in of
        ]

        def theirs(encoded: Any = encoded) -> None:
            with quiet_lm_eval():
                hflm._loglikelihood_tokens(encoded, disable_tqdm=True)

        mine = record.measured(f"{task}: one slice", ours, arguments.repeats)
        if mine is None:
            continue
        found[task] = mine
        flops = sum(work(model, batch.tokens, len(set(batch.slot))) for batch in batches)
        first = record.figures["first_round_s"][f"{task}: one slice"]
        record.row(
            f"{task}: one slice", f"{mine:.2f} s ({tokens / mine:,.0f} tokens/s), first {first:.1f}"
        )
        record.row(
            f"{task}: floor, share of the peak",
            f"{flops / mine / 1e10 / arguments.peak_tflops:.1f} % ({flops / mine / 1e12:.1f})",
            "35 %, then 45 %" if task == "hellaswag" else "",
        )
        if (other := record.measured(f"{task}: rows, not compiled", in_rows, 1)) is not None:
            record.row(f"{task}: rows, not compiled", f"{other:.2f} s: {other / mine:.2f}x")
        if (other := record.measured(f"{task}: HFLM", theirs, 1)) is not None:
            record.row(
                f"{task}: HFLM, batch {BATCH_SIZE}",
                f"{other:.2f} s: {other / mine:.2f}x",
                f"at least {GOALS[task]}",
            )
    return found


def all_slices(
    models: Mapping[str, Gemma3nForCausalLM],
    requests: Requests,
    budget: TokenBudget,
    seconds: Mapping[str, float],
    record: Record,
    arguments: argparse.Namespace,
) -> None:
    """The 16 published slices, and the time that all items would take."""
    minutes = []
    for task, (items, of) in requests.items():

        def sweep(of: list[Request] = of) -> None:
            score_slices(models, of, budget=budget)

        name = f"{task}: 16 slices"
        if (taken := record.measured(name, sweep, 1)) is None:
            continue
        minutes.append(taken * ALL_ITEMS[task] / items / 60)
        ratio = f", {taken / seconds[task]:.1f} times one" if task in seconds else ""
        record.row(name, f"{taken:.2f} s{ratio}; all items: {minutes[-1]:.1f} min")
    if len(minutes) == len(requests):
        record.row("16 slices, three tasks, all items", f"{sum(minutes):.0f} min", "60, then 40")


def memory_where_it_is_short(
    models: Mapping[str, Gemma3nForCausalLM], requests: Requests, planned: int, record: Record
) -> None:
    """The peak with the budget of a device that has the plan and a tenth more."""
    some = next(iter(models.values()))
    device = some.device.type
    for compiled in (True, False) if device == "cuda" else (False,):
        budget = accelerator_budget(some, planned // 10, compiled=compiled)
        for task, (_, of) in requests.items():
            for count in (1, SLICES_PER_PASS):
                name = f"{task}: peak, {count} slices, {budget.mode}, {budget.batch_tokens}"
                if record.left() <= 0:
                    record.row(name, "left out: no time left")
                    continue
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                score_slices(dict(list(models.items())[:count]), of[:96], budget=budget)
                peak = memory(device, peak=True)
                record.row(name, f"{gb(peak)}, {peak / planned:.3f} of the plan", "1.10")


def table_on_device(
    elastic: ElasticParent,
    full: Any,
    requests: Requests,
    budget: TokenBudget,
    seconds: Mapping[str, float],
    record: Record,
    arguments: argparse.Namespace,
) -> None:
    there = elastic.weights[TABLE].to(elastic.device)
    model = replace(elastic, weights={**elastic.weights, TABLE: there}).live(full)
    for task, (_, of) in requests.items():

        def with_table(of: list[Request] = of) -> None:
            score_slices({"": model}, of, budget=budget)

        taken = record.measured(f"{task}: table on the device", with_table, arguments.repeats)
        if taken is not None and task in seconds:
            ratio = f"{taken:.2f} s: host {seconds[task] / taken:.3f}x"
            record.row(f"{task}: table on the device", ratio, "1.03x")


def profile(
    model: Gemma3nForCausalLM,
    requests: list[Request],
    budget: TokenBudget,
    wall: float | None,
    record: Record,
) -> None:
    """Where the device's time goes, by class of kernel, for one slice on HellaSwag."""
    if record.left() <= 0 or wall is None:
        record.row("kernel profile", "left out: no time left")
        return
    on_gpu = model.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as found:
        score_slices({"": model}, requests, budget=budget)
    by_class = dict.fromkeys((*CLASSES, "idle"), 0.0)
    kernels = {}
    for event in found.key_averages():
        taken = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        by_class[class_of(event.key)] += taken
        kernels[event.key] = taken
    by_class["idle"] = max(0.0, wall - sum(by_class.values()))
    total = sum(by_class.values())
    record.figures["profile_s"] = {name: round(taken, 4) for name, taken in by_class.items()}
    longest = sorted(kernels.items(), key=lambda each: -each[1])[:40]
    record.figures["longest_kernels_s"] = {name: round(taken, 5) for name, taken in longest}
    for name, taken in by_class.items():
        record.row(f"hellaswag: {name}", f"{taken:.3f} s, {taken / total:.0%}")


def class_of(kernel: str) -> str:
    name = kernel.lower()
    for each, parts in CLASSES.items():
        if any(part in name for part in parts):
            return each
    return "element-wise"


def print_table(record: Record) -> None:
    figures = record.figures
    print(f"\n{figures['card']}, torch {figures['torch']}, {figures['date']}\n")
    print("| work | found | goal |\n| --- | --- | --- |")
    for row in record.rows:
        print(f"| {row['row']} | {row['found']} | {row['goal']} |")


def spread(requests: Sequence[Request], vocab_size: int, used: int) -> list[Request]:
    """The same requests with their few token ids spread over the vocabulary."""
    step = max(1, vocab_size // used)

    def of(ids: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(each * step % vocab_size for each in ids)

    return [Request(of(request.inputs), of(request.targets)) for request in requests]


def work(model: Any, tokens: int, scored: int) -> float:
    """FLOPs of the matrix products of one batch: two for each weight and token."""
    shared: int = model.config.num_hidden_layers - model.config.num_kv_shared_layers
    sizes: list[int] = [sum(p.numel() for p in layer.parameters()) for layer in model.model.layers]
    head: int = model.lm_head.weight.numel()
    return 2.0 * (tokens * sum(sizes[:shared]) + scored * (sum(sizes[shared:]) + head))


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def memory(device: str, *, peak: bool = False) -> int:
    """Bytes of tensors on the device; 0 on a CPU."""
    if device != "cuda":
        return 0
    return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()


def gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size else "not a GPU"


if __name__ == "__main__":
    main()

"""What a GPU makes of E4B with random weights in bf16: memory, tokens/s, the 16-slice sweep.

    python benchmarks/gpu.py --datasets DIR --inventory TENSORS.json --config CONFIG.json
    python benchmarks/gpu.py --datasets DIR --dry     # a miniature on the CPU: does the script run?

1. Device memory after loading and at its peak while scoring, against the plan's figure.
2. Scoring with `embed_tokens_per_layer` on the host against scoring with it on the device.
3. Tokens/s of each task's real prompts, the share of the chip's peak (`--peak-tflops`), and HFLM.
4. The 16 published slices on the same sample, extrapolated to the whole tasks by their items.

The prompts are encoded by the embedded parent's tokenizer (or by `--tokenizer`), its ids spread
over the vocabulary, so that the look-ups are as scattered as Gemma's. This script has run on a CPU
only: none of its figures is in the documentation yet.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.full_size_parent import write_parent
from benchmarks.random_parent import write_random_parent
from benchmarks.score import BATCH_SIZE, NUM_FEWSHOT, load
from matformer_lab import tiny
from matformer_lab.evaluation.lm import make_lm
from matformer_lab.evaluation.prefix_scorer import PrefixScorer
from matformer_lab.evaluation.quiet import quiet_lm_eval
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import budget_for
from matformer_lab.scoring.slice_scoring import batches_of, score_slices
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of
from matformer_lab.sweep.passes import SLICES_PER_PASS

ITEMS = {"hellaswag": 10_042, "boolq": 3_270, "mmlu": 14_042}
TABLE = "embed_tokens_per_layer.weight"


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch) / "parent"
        if arguments.dry:
            torch.set_num_threads(1)
            write_random_parent(folder, 32, torch.bfloat16)
        else:
            write_parent(arguments.inventory, arguments.config, folder, sparse=False)
            for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
                shutil.copy(tiny.model_dir() / name, folder / name)
        measure(folder, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--datasets", type=Path, required=True, help="local dataset folders")
    parser.add_argument("--inventory", type=Path, help="tensor names and shapes of E4B")
    parser.add_argument("--config", type=Path, help="config.json of E4B")
    parser.add_argument(
        "--scratch", type=Path, help="where 15.7 GB may lie for the time of the run"
    )
    parser.add_argument("--tokenizer", help="Gemma's, where it is at hand")
    parser.add_argument("--tasks", nargs="+", choices=list(NUM_FEWSHOT), default=list(NUM_FEWSHOT))
    parser.add_argument("--items", type=int, default=64, help="of HellaSwag and BoolQ")
    parser.add_argument("--mmlu-items", type=int, default=2, help="of each of the 57 subjects")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bf16, dense (H100 SXM)")
    parser.add_argument("--dry", action="store_true", help="a miniature on the CPU")
    arguments = parser.parse_args()
    if not arguments.dry and not (arguments.inventory and arguments.config):
        parser.error("--inventory and --config are needed without --dry")
    return arguments


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    device = "cpu" if arguments.dry else "cuda"
    parent = open_parent(str(folder))
    slices = resolve_slices(["published"], parent, Path())
    (full,) = (each for each in slices if each.name == "e4b")
    name = "CPU, dry run" if arguments.dry else torch.cuda.get_device_name()
    print(f"{name}; torch {torch.__version__}; bf16, hidden size {parent.text.hidden_size}")

    off = ElasticParent.load(parent, dtype=torch.bfloat16, device=device)
    planned = sizes_of(make_plan(parent, full)).accelerator_bytes
    print(f"plan: {gb(planned)} on the device; after loading: {gb(memory(device))}")
    models = {each.name: off.live(each) for each in slices}
    model = models["e4b"]
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer or folder)
    prompts = {}
    for task in arguments.tasks:
        limit = arguments.mmlu_items if task == "mmlu" else arguments.items
        instances = load(task, limit, arguments).requests
        items = len({(each.task_name, each.doc_id) for each in instances})
        with quiet_lm_eval():
            requests = PrefixScorer(model, tokenizer).encode(instances)
        if not arguments.tokenizer:
            requests = spread(requests, parent.text.vocab_size, len(tokenizer))
        prompts[task] = items, requests

    for task, (_, requests) in prompts.items():
        for together in (1, SLICES_PER_PASS):
            few = {each.name: models[each.name] for each in (full, *slices)[:together]}
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            score_slices(few, requests)
            peak = memory(device, peak=True)
            print(f"{task}, {together} slices: peak {gb(peak)}, {peak / planned:.3f} of the plan")

    budget = budget_for(model)  # as above, whatever else lies on the device from here on
    on_device = off.weights[TABLE].to(device)
    with_table = replace(off, weights={**off.weights, TABLE: on_device}).live(full)
    for task, (items, requests) in prompts.items():
        batches = list(batches_of(model, requests, budget))
        hflm = make_lm(model, tokenizer, scorer="lm-eval", batch_size=BATCH_SIZE)
        encoded = [
            (("", ""), list(r.inputs[: len(r.inputs) - len(r.targets) + 1]), list(r.targets))
            for r in requests
        ]

        host, table, theirs, sweep = turns(
            arguments.repeats,
            device,
            partial(score_slices, {"": model}, requests, budget=budget),
            partial(score_slices, {"": with_table}, requests, budget=budget),
            partial(hflm._loglikelihood_tokens, encoded, disable_tqdm=True),
            partial(score_slices, models, requests, budget=budget),
        )
        read = sum(len(request.inputs) for request in requests)
        flops = sum(work(model, batch.tokens, len(set(batch.slot))) for batch in batches)
        print(f"\n{task}: {items} items, {len(requests)} requests, {budget}")
        print(f"  table on the host {host:.2f} s, on the device {table:.2f} s: {host / table:.3f}x")
        print(f"  {read / host:,.0f} prompt tokens/s, {flops / host / 1e12:.2f} TFLOP/s computed")
        print(f"  = {flops / host / 1e10 / arguments.peak_tflops:.1f} % of the peak")
        print(f"  HFLM, batch {BATCH_SIZE}: {theirs:.2f} s, ratio {theirs / host:.2f}")
        print(f"  16 slices: {sweep:.2f} s, {sweep / host:.1f} times the one")
        minutes = sweep * ITEMS[task] / items / 60
        print(f"  all {ITEMS[task]:,} items: {minutes:.1f} min (extrapolated)")


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


def turns(repeats: int, device: str, *works: Callable[[], Any]) -> list[float]:
    """Median seconds of each, taking turns, after one round to warm up."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats + 1):
        for each, taken in zip(works, times, strict=True):
            began = time.perf_counter()
            with quiet_lm_eval():
                each()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken[1:]) for taken in times]


def memory(device: str, *, peak: bool = False) -> int:
    """Bytes of tensors on the device; 0 on a CPU."""
    if device != "cuda":
        return 0
    return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()


def gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size else "not a GPU"


if __name__ == "__main__":
    main()

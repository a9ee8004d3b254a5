"""How the three tasks' real prompts are packed: tokens, batches, share of padding, by budget.

    python benchmarks/packing.py --datasets DIR [--tokenizer PARENT] [--items 100]
                                 [--budgets 2048 4096 8192 16384]

`tokens` are those of all requests one by one, `packed` what is left of them when prefixes are
shared, `padding` the share of the computed tokens that is padding, `row` the mean tokens a query
meets in attention. `rows`: batches of rows padded to one length, as a CPU runs them. `one row`:
documents side by side, as compiled layers run them, padded to the next of a few token counts;
there `row` counts the blocks that are not skipped. The tokenizer is a parent's: of the embedded
one, tokens are about characters.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import machine
from matformer_lab.evaluation.tasks.entry import USUAL_NUM_FEWSHOT, TaskEntry
from matformer_lab.evaluation.tasks.loading import load_tasks
from matformer_lab.evaluation.tokenizer import load_tokenizer
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring.attention.visible_blocks import visible_blocks
from matformer_lab.scoring.batches.one_row import BLOCK, pack_one_row
from matformer_lab.scoring.batches.packed_work import work_of
from matformer_lab.scoring.batches.packing import Batch, pack
from matformer_lab.sweep.estimate import sampled_requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--datasets", type=Path, required=True)
    parser.add_argument("--tokenizer", default="tiny", help="a parent")
    parser.add_argument("--items", type=int, default=100, help="items of each task")
    parser.add_argument("--tasks", nargs="+", default=list(USUAL_NUM_FEWSHOT))
    parser.add_argument("--budgets", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    options = parser.parse_args()
    if not options.datasets.is_dir():
        print(f"skipped: there is no {options.datasets}")
        return
    parent = open_parent(options.tokenizer)
    tokenizer = load_tokenizer(parent)
    print(machine())
    for name in options.tasks:
        entry = TaskEntry.model_validate(name)
        limit = max(1, options.items // 57) if name == "mmlu" else options.items
        (task,) = load_tasks([entry], limit=limit, seed=1234, datasets=options.datasets)
        pairs = [request.args for request in task.requests]
        asked = sampled_requests(pairs, tokenizer, parent.text.max_position_embeddings)
        alone = sum(len(request.inputs) for request in asked)
        print(
            f"{name}, {entry.num_fewshot or 0}-shot, {task.items} items, {len(asked)} requests, "
            f"{alone:,} tokens",
            flush=True,
        )
        for budget in options.budgets:
            rows = list(pack(asked, batch_tokens=budget, attention_cost=e4b_attention_cost()))
            show("rows", budget, rows, work_of(rows).pairs)
            row = list(pack_one_row(asked, batch_tokens=budget))
            show("one row", budget, row, sum(map(visible_pairs, row)))


def show(layout: str, budget: int, batches: Sequence[Batch], pairs: float) -> None:
    work = work_of(batches)
    print(
        f"  {layout:7}, budget {budget:6,}: packed {work.tokens:9,.0f}, batches "
        f"{work.batches:4.0f}, padding {work.padding:5.1%}, scored {work.scored:8,.0f}, "
        f"row {pairs / work.computed:6,.0f}",
        flush=True,
    )


def visible_pairs(batch: Batch) -> int:
    """Pairs of tokens in blocks that a layer with full attention computes."""
    (end,), (depth,) = batch.subtree_end, batch.depth
    blocks = visible_blocks(np.arange(len(end)), end, depth, None, size=BLOCK)
    return int((blocks.some | blocks.all).sum()) * BLOCK**2


def e4b_attention_cost() -> float:
    """`slice_scoring.attention_cost` of E4B: 8 heads of 256, hidden size 2048."""
    return 8 * 256 / (4 * 2048**2)


if __name__ == "__main__":
    main()

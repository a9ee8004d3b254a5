"""What scoring takes of an accelerator's memory at E4B's full size, against the plan.

PyTorch's `meta` device stands in for the accelerator: its tensors have sizes and no numbers. What
an accelerator's kernels need for themselves, those of attention above all, is not seen here.
"""

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma3nForCausalLM

from matformer_lab.builtin_slices import e4b_text_parent
from matformer_lab.catalog import resolve_slices
from matformer_lab.elastic import ElasticParent
from matformer_lab.packing import Batch, Request, pack
from matformer_lab.passes import SLICES_PER_PASS
from matformer_lab.per_layer_rows import RowFetcher
from matformer_lab.plan import make_plan
from matformer_lab.sizes import sizes_of
from matformer_lab.slice_scoring import (
    WAITING_STATES,
    _score_batch,
    attention_cost,
    layer_keys,
    tokens_within,
)
from matformer_lab.slice_trie import build_trie
from matformer_lab.slices import Slice

PARENT = e4b_text_parent()
HALF, FULL = (
    Slice(name, tuple(width // part for width in PARENT.text.intermediate_size))
    for name, part in (("half", 2), ("full", 1))
)


class DeviceMemory(TorchDispatchMode):
    """Bytes of `meta` tensors made while it is on: alive now, and at the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self._known:
            self._known.add(address)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._known.remove(address)
        self.alive -= size


def test_the_count_follows_what_is_alive() -> None:
    with DeviceMemory() as memory:
        kept = torch.zeros(100, dtype=torch.bfloat16, device="meta")
        view = kept[10:]
        gone = torch.zeros(1000, device="meta") + 1  # both terms' memory for a moment
        del gone
    assert (memory.alive, memory.peak) == (200, 200 + 4000 + 4000)
    del kept, view
    assert memory.alive == 0


@pytest.fixture(scope="module")
def elastic() -> ElasticParent:
    """E4B in bf16; the table is on the host, 4.7 GB that nothing ever writes to."""
    weights = {
        name.removeprefix(PARENT.prefix): torch.empty(
            info.shape,
            dtype=torch.bfloat16,
            device="cpu" if "embed_tokens_per_layer" in name else "meta",
        )
        for name, info in PARENT.tensors.items()
    }
    return ElasticParent(PARENT, torch.bfloat16, "meta", weights)


@pytest.fixture(scope="module")
def models(elastic: ElasticParent) -> dict[str, Gemma3nForCausalLM]:
    slices = [FULL, *resolve_slices(["published"], PARENT.text)][:SLICES_PER_PASS]
    return {slice_.name: elastic.live(slice_) for slice_ in slices}


def prompts(context: int, shared: int, choices: int, length: int, count: int) -> list[Request]:
    """`count` questions of `context` tokens, the first `shared` of them the same."""
    return [
        Request.of(
            [*range(shared), *([1000 + number] * (context - shared))],
            [5000 + choice] * length,
            8192,
        )
        for number in range(count)
        for choice in range(choices)
    ]


# As many tokens as the benchmarks' prompts have, about.
TASKS = {
    "hellaswag": prompts(context=1000, shared=0, choices=4, length=25, count=4),
    "boolq": prompts(context=180, shared=3, choices=2, length=1, count=24),
    "mmlu": prompts(context=800, shared=650, choices=4, length=1, count=30),
    "mmlu, long questions": prompts(context=3300, shared=2800, choices=4, length=1, count=3),
}


def peak_of(models: dict[str, Gemma3nForCausalLM], batches: Iterator[Batch]) -> int:
    """Bytes besides the weights, the rows of a next batch as long as this one included."""
    trie = build_trie({name: layer_keys(model) for name, model in models.items()})
    fetcher = RowFetcher(next(iter(models.values())))
    peak = 0
    for batch in batches:
        with DeviceMemory() as memory:
            rows, ahead = fetcher.fetch(batch), fetcher.fetch(batch)
            _score_batch(models, trie, batch, rows)
            del rows, ahead
        peak = max(peak, memory.peak)
    return peak


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("together", [1, SLICES_PER_PASS])
def test_scoring_needs_the_plans_bytes_and_a_tenth(
    elastic: ElasticParent, models: dict[str, Gemma3nForCausalLM], task: str, together: int
) -> None:
    planned = sizes_of(make_plan(PARENT, FULL)).accelerator_bytes
    held = sum(weight.nbytes for weight in elastic.weights.values() if weight.is_meta)
    assert held == planned

    chosen = {name: models[name] for name in list(models)[:together]}
    tokens = {tokens_within(held // 10, model) for model in chosen.values()}
    assert len(tokens) == 1  # all slices of a parent are packed alike
    budget = tokens.pop()
    assert budget >= 3 * 1024

    cost = attention_cost(chosen["full"].config)
    batches = pack(TASKS[task], batch_tokens=budget, row_tokens=budget, attention_cost=cost)
    peak = peak_of(chosen, batches)
    print(f"{task}, {together} slices: {budget} tokens, {peak / planned:.3f} of the plan")
    assert peak <= planned / 10
    assert 2**WAITING_STATES == SLICES_PER_PASS


def test_without_pieces_the_ffn_alone_would_need_more(
    elastic: ElasticParent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound above is not met by chance: it is the pieces that keep it."""
    model = elastic.live(FULL)
    budget = tokens_within(sizes_of(make_plan(PARENT, FULL)).accelerator_bytes // 10, model)
    cost = attention_cost(model.config)
    (batch, *_) = pack(TASKS["boolq"], batch_tokens=budget, attention_cost=cost)
    in_pieces = peak_of({"": model}, iter([batch]))
    monkeypatch.setattr("matformer_lab.piecewise_mlp.PIECE_BYTES", 2**40)
    whole = peak_of({"": model}, iter([batch]))
    assert whole - in_pieces > 3 * batch.input_ids.size * HALF.widths[0] * 2

"""What scoring takes of an accelerator's memory at E4B's full size, against the plan.

PyTorch's `meta` device stands in for the accelerator: its tensors have sizes and no numbers. What
attention and log_softmax need besides their results is added to what is seen there.
"""

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma3nForCausalLM

from matformer_lab.generation.decoding import LEAST_CAP_BYTES
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.scoring.attention import tree_attention
from matformer_lab.scoring.batches.packing import Batch, Request, pack
from matformer_lab.scoring.batches.token_budget import (
    TokenBudget,
    accelerator_budget,
    tokens_within,
)
from matformer_lab.scoring.per_layer_inputs import PerLayerInputFetcher
from matformer_lab.scoring.slice_scoring import batches_of, layer_keys, score_batch
from matformer_lab.scoring.slice_trie import build_trie
from matformer_lab.slicing.builtin_slices import e4b_text_parent
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of
from matformer_lab.slicing.slice import Slice
from matformer_lab.sweep.passes import SLICES_PER_PASS

PARENT = e4b_text_parent()
FULL = Slice("full", PARENT.text.intermediate_size)


class DeviceMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of `meta` tensors made while it is on: alive now, and at the peak.

    `there`: tensors made before, views of which count for nothing.
    """

    def __init__(self, there: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = 0
        self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in there}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.alive + unseen(func, args, kwargs or {}))
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self._known:
            self._known.add(address)
            self.alive += size
            weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._known.remove(address)
        self.alive -= size


def unseen(func: Any, args: Any, kwargs: Any) -> int:
    """Bytes that a CUDA kernel makes and drops.

    Attention turns a boolean mask into numbers, and these into aligned ones; log_softmax turns what
    it gets into the dtype it shall give.
    """
    aten = torch.ops.aten
    if func is aten.scaled_dot_product_attention.default:
        mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        return 0 if mask is None else 2 * mask.numel() * args[0].itemsize
    if func is aten.log_softmax.int:
        given: torch.Tensor = args[0]
        return given.numel() * 4
    return 0


def test_the_count_follows_what_is_alive() -> None:
    weight = torch.zeros(10_000, device="meta")
    with DeviceMemory([weight]) as memory:
        part = weight[5:]
        kept = torch.zeros(100, dtype=torch.bfloat16, device="meta")
        view = kept[10:]
        gone = torch.zeros(1000, device="meta") + 1  # both terms' memory for a moment
        del gone
    assert (memory.alive, memory.peak) == (200, 200 + 4000 + 4000)
    del kept, view, part
    assert memory.alive == 0


def test_the_count_sees_what_attention_does_with_a_mask() -> None:
    states = torch.empty(1, 2, 100, 8, dtype=torch.bfloat16, device="meta")
    mask = torch.empty(1, 1, 100, 100, dtype=torch.bool, device="meta")
    with torch.inference_mode(), DeviceMemory() as memory:
        torch.nn.functional.scaled_dot_product_attention(states, states, states, attn_mask=mask)
    assert memory.peak == states.nbytes + 2 * 2 * 100 * 100


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


def comb(count: int) -> list[Slice]:
    """Slices whose trie branches in two, and each branch again: all states wait that can."""
    widths, half = FULL.widths, FULL.widths[0] // 2
    depth = count.bit_length() - 1
    return [
        Slice(
            f"comb {number}",
            tuple(
                half if layer < depth and number >> layer & 1 else width
                for layer, width in enumerate(widths)
            ),
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def models(elastic: ElasticParent) -> dict[str, list[Gemma3nForCausalLM]]:
    published = [FULL, *resolve_slices(["published"], PARENT)][:SLICES_PER_PASS]
    groups = {"one slice": [FULL], "published": published, "comb": comb(SLICES_PER_PASS)}
    return {name: [elastic.live(slice_) for slice_ in slices] for name, slices in groups.items()}


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


# As many tokens as the benchmarks' prompts have, about; and texts scored from end to end.
TASKS = {
    "hellaswag": prompts(context=1000, shared=0, choices=4, length=25, count=4),
    "boolq": prompts(context=180, shared=3, choices=2, length=1, count=24),
    "mmlu": prompts(context=800, shared=650, choices=4, length=1, count=30),
    "mmlu, long questions": prompts(context=3300, shared=2800, choices=4, length=1, count=3),
    "rolling": prompts(context=2, shared=0, choices=1, length=1400, count=2),
    "rolling, branching": prompts(context=2, shared=2, choices=3, length=900, count=1),
}


def peak_of(
    models: list[Gemma3nForCausalLM], batches: Iterator[Batch], budget: TokenBudget | None = None
) -> int:
    """Bytes besides the weights, the rows of next batches as long as this one included."""
    named = {str(number): model for number, model in enumerate(models)}
    trie = build_trie({name: layer_keys(model) for name, model in named.items()})
    fetcher = PerLayerInputFetcher(models[0])
    peak = 0
    for batch in batches:
        with DeviceMemory(weight for model in models for weight in model.parameters()) as memory:
            # The batch's, the next one's, and those after it that are being fetched.
            rows, *ahead = (fetcher.fetch(batch) for _ in range(3))
            score_batch(named, trie, batch, rows, budget=budget)
            del rows, ahead
        peak = max(peak, memory.peak)
    return peak


ROOM = PARENT.tensors[f"{PARENT.prefix}embed_tokens.weight"].nbytes * 4 // 5


def test_an_accelerator_holds_the_plan_and_gives_less_than_a_tenth_to_activations(
    elastic: ElasticParent,
) -> None:
    planned = sizes_of(make_plan(PARENT, FULL)).accelerator_bytes
    assert planned == sum(weight.nbytes for weight in elastic.weights.values() if weight.is_meta)
    assert 0.09 * planned < ROOM < 0.1 * planned


QUICK = [("one slice", "mmlu")]
COMBINATIONS = [
    pytest.param(group, task, marks=() if (group, task) in QUICK else pytest.mark.slow)
    for group in ("one slice", "published", "comb")
    for task in TASKS
]


@pytest.mark.parametrize(("group", "task"), COMBINATIONS)
def test_scoring_keeps_to_its_room(
    models: dict[str, list[Gemma3nForCausalLM]], group: str, task: str
) -> None:
    tokens = {tokens_within(ROOM, model) for model in models[group]}
    assert len(tokens) == 1  # all slices of a parent are packed alike
    (most,) = tokens
    budget = TokenBudget(most, most)
    peak = peak_of(models[group], batches_of(models[group][0], TASKS[task], budget))
    print(f"{task}, {group}: {most} tokens, {peak / ROOM:.3f} of the room")
    assert peak <= ROOM


SIDE_BY_SIDE = [
    pytest.param(*each, marks=() if number == 4 else pytest.mark.slow)
    for number, each in enumerate(
        (group, task, room)
        for group in ("one slice", "comb")
        for task in ("mmlu", "hellaswag", "boolq")
        for room in (ROOM, 6 * ROOM)
    )
]


@pytest.mark.parametrize(("group", "task", "room"), SIDE_BY_SIDE)
def test_documents_side_by_side_keep_to_their_room(
    models: dict[str, list[Gemma3nForCausalLM]],
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    task: str,
    room: int,
) -> None:
    """With a kernel for each operation, which takes more than compiled layers do."""

    def kernel(_: Any, query: torch.Tensor, *_others: Any, **_more: Any) -> tuple[Any, None]:
        """What FlexAttention's makes: its result, and a sum for each query and head."""
        sums = query.new_empty(query.shape[:3], dtype=torch.float32)
        result = query.new_empty(query.shape).transpose(1, 2).contiguous()
        del sums
        return result, None

    monkeypatch.setattr(tree_attention, "_attention", kernel)
    model = models[group][0]
    budget = replace(accelerator_budget(model, room, compiled=True), mode="one row")
    assert budget.batch_tokens == (2048 if room == ROOM else 16384)
    peak = peak_of(models[group], batches_of(model, TASKS[task], budget), budget)
    print(f"{task}, {group}: {budget.batch_tokens} tokens, {peak / room:.3f} of the room")
    assert peak <= room


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("room", [ROOM, 5 * ROOM, 10 * ROOM])
def test_an_accelerators_budgets_keep_to_their_room(
    models: dict[str, list[Gemma3nForCausalLM]], task: str, room: int
) -> None:
    model = models["comb"][0]
    budget = accelerator_budget(model, room)
    peak = peak_of(models["comb"], batches_of(model, TASKS[task], budget), budget)
    print(f"{task}: {budget.batch_tokens} tokens, {peak / room:.3f} of the room")
    assert peak <= room


@pytest.mark.slow
def test_long_rows_keep_to_a_larger_room(models: dict[str, list[Gemma3nForCausalLM]]) -> None:
    """Here the masks matter, which grow with the square of a row's tokens."""
    comb, room = models["comb"], 4 * ROOM
    most = tokens_within(room, comb[0])
    branching = prompts(context=2, shared=2, choices=2, length=most // 2 - 50, count=1)
    (batch,) = pack(branching, batch_tokens=most, row_tokens=most, attention_cost=0)
    assert batch.input_ids.shape > (1, 10_000)
    assert peak_of(comb, iter([batch])) <= room


@pytest.mark.parametrize(
    ("group", "room"),
    [
        ("one slice", ROOM),
        pytest.param("comb", LEAST_CAP_BYTES, marks=pytest.mark.slow),
        pytest.param("one slice", LEAST_CAP_BYTES, marks=pytest.mark.slow),
        pytest.param("comb", ROOM, marks=pytest.mark.slow),
    ],
)
def test_the_longest_text_scored_from_end_to_end_keeps_to_the_room(
    models: dict[str, list[Gemma3nForCausalLM]], group: str, room: int
) -> None:
    """The most that a budget lets through; in the smaller room its logits matter."""
    most = tokens_within(room, models[group][0])
    (batch,) = batches_of(models[group][0], prompts(2, 0, 1, most - 1, 1), TokenBudget(most, most))
    assert batch.input_ids.shape == (1, most)
    assert batch.scored.shape == (1, most - 1)
    peak = peak_of(models[group], iter([batch]))
    print(f"{group}: {most} tokens, {peak / room:.3f} of the room")
    assert peak <= room


def test_without_pieces_the_ffn_alone_would_need_more(
    elastic: ElasticParent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound above is not met by chance: it is the pieces that keep it."""
    model = elastic.live(FULL)
    tokens = tokens_within(ROOM, model)
    batch = next(batches_of(model, TASKS["boolq"], TokenBudget(tokens)))
    in_pieces = peak_of([model], iter([batch]))
    monkeypatch.setattr("matformer_lab.scoring.piecewise_mlp.PIECE_BYTES", 2**40)
    whole = peak_of([model], iter([batch]))
    assert whole - in_pieces > 3 * batch.input_ids.size * FULL.widths[0]  # half of what it makes

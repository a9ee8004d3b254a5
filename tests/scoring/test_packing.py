import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.scoring.batches.packing import FULLNESS, Request, choose_rows, pack
from matformer_lab.scoring.batches.prefix_tree import PrefixTree

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)


@st.composite
def _requests(draw: st.DrawFn) -> list[Request]:
    pairs = draw(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=10))
    return [Request.of(context, continuation, max_length=12) for context, continuation in pairs]


@given(_requests(), st.integers(1, 40), st.sampled_from([0.0, 0.01, 0.3, 10.0]))
def test_every_target_is_read_once_below_exactly_its_prefix(
    requests: list[Request], batch_tokens: int, attention_cost: float
) -> None:
    read: dict[int, list[tuple[tuple[int, ...], int]]] = {n: [] for n in range(len(requests))}
    for batch in pack(requests, batch_tokens=batch_tokens, attention_cost=attention_cost):
        assert (np.diff(batch.slot) >= 0).all()
        slots = batch.scored.shape[1]
        for slot, target, number in zip(batch.slot, batch.target, batch.request, strict=True):
            row, node = slot // slots, batch.scored[slot // slots, slot % slots]
            ancestors = [j for j in range(node + 1) if node < batch.subtree_end[row, j]]
            assert batch.depth[row, ancestors].tolist() == list(range(len(ancestors)))
            prefix = tuple(batch.input_ids[row, ancestors].tolist())
            read[int(number)].append((prefix, int(target)))
    for number, request in enumerate(requests):
        first = len(request.inputs) - len(request.targets) + 1
        assert sorted(read[number], key=lambda each: len(each[0])) == [
            (request.inputs[: first + t], target) for t, target in enumerate(request.targets)
        ]


@given(_requests(), st.integers(1, 40), st.integers(1, 60), st.sampled_from([0.0, 0.3]))
def test_batches_keep_to_the_budget(
    requests: list[Request], batch_tokens: int, row_tokens: int, attention_cost: float
) -> None:
    longest = max(len(request.inputs) for request in requests)
    batches = list(
        pack(
            requests,
            batch_tokens=batch_tokens,
            row_tokens=row_tokens,
            attention_cost=attention_cost,
        )
    )
    for batch in batches:
        rows, length = batch.input_ids.shape
        assert rows == 1 or rows * length <= batch_tokens
        assert length <= max(longest, min(row_tokens, longest + batch_tokens))
        assert batch.tokens >= FULLNESS * rows * length


@given(_requests())
def test_without_bounds_every_prefix_is_computed_once(requests: list[Request]) -> None:
    distinct = {r.inputs[: d + 1] for r in requests for d in range(len(r.inputs))}
    batches = pack(requests, batch_tokens=1000, attention_cost=0.0)
    assert sum(batch.tokens for batch in batches) == len(distinct)


@given(
    st.lists(TOKENS, min_size=1, max_size=7),
    st.integers(1, 20),
    st.integers(1, 30),
    st.sampled_from([0.0, 0.05, 0.2, 1.0]),
)
def test_the_chosen_rows_are_the_cheapest_of_all_there_could_be(
    sequences: list[tuple[int, ...]], batch_tokens: int, row_tokens: int, attention_cost: float
) -> None:
    tree, _ = PrefixTree.of(sequences)

    def cost(rows: Sequence[tuple[int, int]]) -> float:
        sizes = [tree.size(*row) for row in rows]
        return sum(size + attention_cost * size**2 for size in sizes)

    def allowed(start: int, stop: int) -> bool:
        beyond = tree.size(start, stop) - len(tree.sequences[start])
        fits = beyond <= batch_tokens and tree.size(start, stop) <= row_tokens
        return fits or stop - start == 1

    places = range(1, len(tree))
    everything = [
        list(itertools.pairwise((0, *inner, len(tree))))
        for count in range(len(tree))
        for inner in itertools.combinations(places, count)
    ]
    possible = [rows for rows in everything if all(allowed(*row) for row in rows)]

    chosen = choose_rows(tree, batch_tokens, row_tokens, attention_cost)

    assert chosen in possible
    assert cost(chosen) == pytest.approx(min(map(cost, possible)))


def test_a_trunk_longer_than_the_budget_is_still_shared() -> None:
    trunk = tuple(range(100))
    requests = [Request.of((*trunk, 200 + q), (7,), max_length=500) for q in range(8)]
    batches = list(pack(requests, batch_tokens=50, attention_cost=0.0))
    assert [batch.tokens for batch in batches] == [108]


def test_unrelated_requests_share_no_row() -> None:
    requests = [Request.of((1, *[10 + n] * 40), (7,), max_length=500) for n in range(6)]
    (batch,) = pack(requests, batch_tokens=1000, attention_cost=1e-3)
    assert batch.input_ids.shape == (6, 41)
    assert batch.is_causal


def test_one_token_choices_and_equal_requests_cost_nothing() -> None:
    context = tuple(range(30))
    requests = [Request.of(context, (letter,), max_length=500) for letter in (50, 51, 52, 50)]
    (batch,) = pack(requests, batch_tokens=1000, attention_cost=1e-3)
    assert batch.tokens == 30
    assert batch.scored.tolist() == [[29]]
    assert batch.target.tolist() == [50, 51, 52, 50]


def test_left_truncation_is_lm_evals() -> None:
    assert Request.of(range(10), (20, 21, 22), max_length=5).inputs == (7, 8, 9, 20, 21)
    assert Request.of((1,), (2, 3, 4), max_length=3).inputs == (1, 2, 3)


@pytest.mark.parametrize(("context", "continuation"), [((), (1,)), ((1,), ()), ((1,), (2,) * 6)])
def test_refuses_what_lm_eval_refuses(
    context: tuple[int, ...], continuation: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="1 to 5 tokens"):
        Request.of(context, continuation, max_length=5)

"""Documents side by side in one row, and who sees whom there."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from matformer_lab.scoring import packed_forward
from matformer_lab.scoring.attention.visible_blocks import visible_blocks
from matformer_lab.scoring.batches.one_row import BLOCK, SCORED_COUNTS, pack_one_row, token_counts
from matformer_lab.scoring.batches.packed_work import work_of
from matformer_lab.scoring.batches.packing import Batch, Request, pack
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.lm_head import target_scores
from matformer_lab.scoring.slice_scoring import Answer, score_slices
from tests.scoring.test_packed_forward import REQUESTS, model, unpacked


def targets_read(batch: Batch) -> list[tuple[int, tuple[int, ...], int]]:
    """(request, the prefix it is read after, target), by walking the ancestors of each token."""
    (ids,), (end,), (scored,) = batch.input_ids, batch.subtree_end, batch.scored
    found = []
    for slot, target, number in zip(batch.slot, batch.target, batch.request, strict=True):
        node = scored[slot]
        prefix = tuple(int(ids[j]) for j in range(node + 1) if node < end[j])
        found.append((int(number), prefix, int(target)))
    return found


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)
PAIRS = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=12)


@given(PAIRS, st.sampled_from([128, 1024]))
def test_every_target_is_read_once_below_exactly_its_prefix(pairs: Any, batch_tokens: int) -> None:
    requests = [Request.of(context, continuation, 100) for context, continuation in pairs]
    read = []
    for batch in pack_one_row(requests, batch_tokens=batch_tokens):
        rows, length = batch.input_ids.shape
        assert rows == 1
        assert length in token_counts(batch_tokens)
        assert batch.scored.shape[1] in (*SCORED_COUNTS, length)
        assert batch.scored.shape[1] <= length
        assert (np.diff(batch.slot) >= 0).all()
        read += targets_read(batch)
    assert sorted(read) == sorted(
        (number, (*context, *continuation)[: len(context) + t], target)
        for number, (context, continuation) in enumerate(pairs)
        for t, target in enumerate(continuation)
    )


def padded(tokens: int, budget: int) -> int:
    return int(min(count for count in token_counts(budget) if count >= tokens))


def unlike(lengths: list[int]) -> list[Request]:
    return [Request.of([n + 5] * length, (7,), 100_000) for n, length in enumerate(lengths)]


@given(st.lists(st.integers(1, 700), min_size=1, max_size=30), st.sampled_from([512, 2048]))
def test_a_row_keeps_to_the_budget_and_is_not_half_empty(
    lengths: list[int], batch_tokens: int
) -> None:
    batches = list(pack_one_row(unlike(lengths), batch_tokens=batch_tokens))
    for batch in batches:
        counts = token_counts(batch_tokens)
        assert batch.input_ids.size <= max(batch_tokens, padded(max(lengths), batch_tokens))
        if batch.tokens > batch_tokens // 2:
            assert batch.tokens > 0.79 * batch.input_ids.size - BLOCK
        else:
            assert batch.input_ids.size in counts[:2]
    assert sum(batch.tokens for batch in batches) == sum(lengths)


def test_texts_of_unlike_length_share_a_row() -> None:
    requests = unlike([40 * n for n in range(1, 26)])  # 13,000 tokens
    in_rows = work_of(pack(requests, batch_tokens=8192, attention_cost=1e-4))
    one_row = work_of(pack_one_row(requests, batch_tokens=8192))
    assert in_rows.batches > 5 and in_rows.padding > 0.05
    assert one_row.batches < in_rows.batches
    assert one_row.padding < 0.05


def test_a_text_longer_than_the_budget_gets_a_row() -> None:
    (batch,) = pack_one_row(unlike([3000]), batch_tokens=512)
    assert batch.input_ids.shape == (1, 3072)


def test_endings_of_a_text_longer_than_the_budget_stay_together() -> None:
    """They did not, and each of a question's choices was a row with all of its context."""
    choices = [Request.of([5] * 2500, (7 + n, 8), 100_000) for n in range(4)]
    (batch,) = pack_one_row(choices, batch_tokens=2048)
    assert batch.input_ids.shape == (1, 2560)
    assert batch.tokens == 2504
    long = [Request.of([5] * 2500, (*range(7 + n, 60 + n), 8), 100_000) for n in range(4)]
    for batch in pack_one_row(long, batch_tokens=2048):
        assert batch.input_ids.shape == (1, 2560)  # no more than the longest takes anyway


@given(
    st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=12),
    st.sampled_from([1, 4, 64]),
    st.sampled_from([None, 1, 2, 5, 100]),
    st.booleans(),
)
def test_blocks_hold_every_visible_pair_and_full_ones_no_other(
    pairs: Any, size: int, window: int | None, scored: bool
) -> None:
    requests = [Request.of(context, continuation, 12) for context, continuation in pairs]
    for batch in pack_one_row(requests, batch_tokens=256):
        (end,), (depth,), length = batch.subtree_end, batch.depth, batch.input_ids.shape[1]
        queries = batch.scored[0] if scored else np.arange(length)
        at, key = queries[:, None], np.arange(length)
        visible = (key <= at) & (at < end[key])
        if window is not None:
            visible &= depth[at] - depth[key] < window
        blocks = visible_blocks(queries, end, depth, window, size=size)
        grid = visible.reshape(-1, size, length // size, size).swapaxes(1, 2)
        assert not (blocks.some & blocks.all).any()
        assert grid[blocks.all].all()
        assert not grid[~(blocks.some | blocks.all)].any()


def test_blocks_of_other_documents_are_skipped() -> None:
    (batch,) = pack_one_row(unlike([1024] * 4), batch_tokens=4096)
    (end,), (depth,) = batch.subtree_end, batch.depth
    blocks = visible_blocks(np.arange(4096), end, depth, None, size=128)
    assert blocks.some.sum() == 4 * 8  # the diagonal
    assert blocks.all.sum() == 4 * 8 * 7 // 2
    near = visible_blocks(np.arange(4096), end, depth, 256, size=128)
    assert near.all.sum() == 4 * 7  # the block before
    assert near.some.sum() == 4 * (8 + 6)  # the diagonal, and the one before that


def logprobs(answers: list[Answer]) -> NDArray[np.float64]:
    return np.array([answer.logprob for answer in answers])


@settings(max_examples=10)
@given(
    REQUESTS,
    st.sampled_from(
        [
            {},
            {"num_kv_shared_layers": 0},
            {"altup_num_inputs": 2, "final_logit_softcapping": 2.0},
            {"sliding_window": 64, "altup_correct_scale": False},
        ]
    ),
)
def test_flex_attention_over_one_row_agrees_with_rows_and_transformers(
    requests: list[Request], changes: dict[str, Any]
) -> None:
    pico = model(**changes)
    in_rows, one_row = (
        score_slices({"": pico}, requests, budget=TokenBudget(256, 256, mode))[""]
        for mode in ("rows", "one row")
    )
    np.testing.assert_allclose(logprobs(one_row), logprobs(in_rows), atol=1e-5, rtol=1e-6)
    assert [each.is_greedy for each in one_row] == [each.is_greedy for each in in_rows]
    expected = [float(unpacked(pico, request)[0].sum()) for request in requests]
    np.testing.assert_allclose(logprobs(one_row), expected, atol=2e-4)


def test_afterwards_the_model_has_its_own_attention_again() -> None:
    pico = model()
    request = Request.of([2, 3, 4], [5], 20)
    score_slices({"": pico}, [request], budget=TokenBudget(256, 256, "one row"))
    assert pico.config._attn_implementation == "sdpa"
    with torch.no_grad():
        pico(torch.tensor([[2, 3, 4]]))


@pytest.mark.parametrize("budget", [256, 512, 1024, 2048, 4096, 8192, 16384])
def test_token_counts_are_few_and_near(budget: int) -> None:
    counts = token_counts(budget)
    assert (np.diff(counts) > 0).all()
    assert (counts % BLOCK == 0).all()
    assert budget in counts
    assert (counts <= budget).sum() <= 6
    assert counts[-1] > 2**23
    for count in range(budget // 2 + 1, 70_000, 333):
        assert padded(count, budget) < 1.25 * count + BLOCK


def test_the_head_reads_scored_tokens_and_not_their_padding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = 0
    compute = target_scores

    def counted(model: Any, final: Any, *others: Any) -> Any:
        nonlocal seen
        seen += len(final)
        return compute(model, final, *others)

    monkeypatch.setattr(packed_forward, "target_scores", counted)
    request = Request.of([2, 3, 4], [5, 6, 7], 20)
    score_slices({"": model()}, [request], budget=TokenBudget(256, 256, "one row"))
    assert seen == 3

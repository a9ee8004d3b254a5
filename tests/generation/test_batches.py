"""Which prompts are decoded together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.generation.batches import DecodeBatch, decode_batches

TOKENS = st.integers(0, 2)
PROMPTS = st.lists(st.lists(TOKENS, min_size=1, max_size=8), max_size=12)


def divided(
    prompts: list[list[int]], *, new: int = 4, capacity: int = 10**6, rows: int = 256
) -> list[DecodeBatch]:
    return decode_batches(prompts, new, capacity=capacity, most_rows=rows, attention_cost=1e-3)


@given(PROMPTS, st.integers(1, 60), st.integers(1, 5))
def test_every_prompt_once_and_within_the_bounds(
    prompts: list[list[int]], capacity: int, rows: int
) -> None:
    batches = divided(prompts, capacity=capacity, rows=rows)
    members = [number for batch in batches for number in batch.members]
    assert sorted(members) == list(range(len(prompts)))
    for batch in batches:
        texts = [prompts[number] for number in batch.members]
        lengths = [len(text) for text in texts]
        assert lengths == sorted(lengths, reverse=True)
        assert batch.shared < lengths[-1]
        assert len({tuple(text[: batch.shared]) for text in texts}) == 1
        assert len(texts) <= rows
        held = batch.shared + len(texts) * (lengths[0] - batch.shared + 4)
        assert len(texts) == 1 or held <= capacity


def group(start: int, length: int, count: int) -> list[list[int]]:
    """Prompts that share `length` tokens and have two of their own."""
    draw = np.random.default_rng(start)
    beginning = draw.integers(1000 * start, 1000 * (start + 1), length).tolist()
    return [[*beginning, 10**6 + number, 5] for number in range(count)]


def test_what_shares_a_beginning_is_one_batch() -> None:
    (batch,) = divided(group(1, 900, 200), new=256)
    assert batch.shared == 900


def test_large_groups_are_apart_and_small_ones_together() -> None:
    large = group(1, 900, 60) + group(2, 900, 60)
    assert sorted(batch.shared for batch in divided(large, new=64)) == [900, 900]
    small = group(1, 3, 2) + group(2, 3, 2) + group(3, 3, 2)
    assert [batch.shared for batch in divided(small, new=256)] == [0]


def test_prompts_with_nothing_in_common_are_still_decoded_together() -> None:
    prompts = [prompt for start in range(20) for prompt in group(start, 100, 1)]
    (batch,) = divided(prompts, new=64)
    assert batch.shared == 0 and len(batch.members) == 20


def test_equal_prompts_share_all_but_the_last_token() -> None:
    assert divided([[1, 2, 3]] * 3) == [DecodeBatch(2, (0, 1, 2))]
    assert divided([]) == []

"""The items of a search: calibration and proof never share one, whatever the documents are."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.tasks.split import Split, split_items


def split(part: int | str, calibration: int = 4, sets: int = 3, seed: int = 0) -> Split:
    return Split(part=part, calibration=calibration, sets=sets, proof=30, seed=seed)  # type: ignore[arg-type]


@given(
    subjects=st.integers(1, 3),
    repeats=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_no_document_is_in_two_parts(subjects: int, repeats: int, seed: int) -> None:
    """Documents that come several times, in several subjects, are counted by their content."""
    documents = {
        f"subject {s}": [{"question": n % (120 // repeats)} for n in range(120)]
        for s in range(subjects)
    }
    parts = [split_items("task", documents, split(part, seed=seed)) for part in (0, 1, 2, "proof")]
    contents = [
        {documents[leaf][place]["question"] for leaf, places in part.items() for place in places}
        for part in parts
    ]
    assert all(parts)
    for number in range(3):
        assert not contents[number] & contents[3]
    for one, other in combinations(parts, 2):
        for leaf in documents:
            assert not set(one[leaf]) & set(other[leaf])


def test_the_order_of_the_documents_does_not_matter() -> None:
    documents = [{"question": n} for n in range(100)]
    there = split_items("task", {"task": documents}, split("proof"))["task"]
    back = split_items("task", {"task": documents[::-1]}, split("proof"))["task"]
    assert {documents[n]["question"] for n in there} == {99 - n for n in back}


def test_another_seed_is_another_split() -> None:
    documents = {"task": [{"question": n} for n in range(100)]}
    one, other = (split_items("task", documents, split(0, seed=seed)) for seed in (0, 1))
    assert one != other


@pytest.mark.parametrize("there", [5, 12, 30])
def test_too_few_items_are_an_error_with_a_remedy(there: int) -> None:
    documents = {"task": [{"question": n} for n in range(there)]}
    with pytest.raises(InputError, match=r"task has \d+ .*too few to split.*calibration\.items"):
        split_items("task", documents, split("proof"))

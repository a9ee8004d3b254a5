"""`--check N`: stored scores against lm-eval's own backend."""

from pathlib import Path

import pytest

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.score import Score
from matformer_lab.results.files import STORE
from matformer_lab.sweep.recipe import parse_recipe
from matformer_lab.sweep.run import run_sweep
from matformer_lab.sweep.score_check import check_scores
from matformer_lab.sweep.scores.key import Key
from matformer_lab.sweep.scores.store import Store

RECIPE = {
    "slices": ["1/2", "1/4"],
    "tasks": ["tiny_boolq", "tiny_mmlu"],
    "dtype": "float32",
    "device": "cpu",
    "batch_size": 4,
    "limit": 4,
}


def test_a_right_store_differs_by_rounding_and_a_wrong_one_is_caught(
    scorable: Path, tmp_path: Path
) -> None:
    recipe = parse_recipe({**RECIPE, "parent": str(scorable)})
    with pytest.raises(InputError, match="sweep first"):
        check_scores(recipe, tmp_path / "out", 3)
    out = run_sweep(recipe, tmp_path / "out", report=False)
    checks = check_scores(recipe, out, 3)
    assert [(check.slice, check.task) for check in checks] == [
        ("uniform-1-2", "tiny_boolq"),
        ("uniform-1-2", "tiny_mmlu"),
    ]
    for check in checks:
        assert check.difference.items == 3
        assert check.difference.largest < 2e-4
        assert check.difference.greedy_flips == 0
        assert "largest difference" in str(check)

    # The scores of the other slice under this one's key: what a mixed-up store would look like.
    store = Store(out / STORE)
    first, second = [entry for entry in store.entries() if entry.key["task"] == "tiny_boolq"]
    items = [store.items(Key(**entry.key)).to_pylist() for entry in (first, second)]
    for entry, others in ((first, items[1]), (second, items[0])):
        entry.path.unlink()
        store.put(Key(**entry.key), Score(entry.metrics, tuple(others)), entry.run)
    assert len(list(store.entries())) == 4
    wrong = check_scores(recipe, out, 3)[0]
    assert wrong.difference.largest > 1e-2

"""Two sweeps against each other: paired, and refused where they are not comparable."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from matformer_lab.common.errors import InputError
from matformer_lab.results.compare import compare_sweeps
from tests.support.synthetic import SLICES, write_sweep

SOME = tuple(made for made in SLICES if made.name in ("e4b", "e2b", "e2.98b-layer"))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweeps") / "first", slices=SOME, scale=0.1)


def test_a_sweep_does_not_differ_from_itself(first: Path) -> None:
    table = compare_sweeps(first, first)
    assert set(table["slice"]) == {made.name for made in SOME}
    assert "average" in set(table["task"])
    assert (table["difference"] == 0).all() and not table["separable"].any()
    assert (table["before"] == table["after"]).all()


def test_the_difference_is_that_of_the_items(first: Path, tmp_path: Path) -> None:
    second = write_sweep(tmp_path / "second", slices=SOME, scale=0.1, drop={"e2b": 2.0})
    table = compare_sweeps(first, second).set_index(["slice", "task"])
    assert set(table.index.get_level_values("slice")) == {made.name for made in SOME}
    old, new = (
        pd.read_parquet(folder / "samples/e2b/boolq.parquet").sort_values("doc_id")["acc"]
        for folder in (first, second)
    )
    rows = table.to_dict("index")
    row = rows["e2b", "boolq"]
    assert row["difference"] == pytest.approx(100 * (new.mean() - old.mean()))
    assert row["only_after"] == int(np.sum(new.to_numpy() > old.to_numpy()))
    assert row["only_before"] == int(np.sum(new.to_numpy() < old.to_numpy()))
    assert row["separable"] and row["high"] < 0
    assert not rows["e4b", "boolq"]["separable"]


def test_other_conditions_are_no_comparison(first: Path, tmp_path: Path) -> None:
    shorter = write_sweep(tmp_path / "shorter", slices=SOME, scale=0.05)
    with pytest.raises(InputError, match="n is 1004 in"):
        compare_sweeps(first, shorter)
    others = write_sweep(tmp_path / "others", slices=SLICES[-2:], scale=0.1)
    with pytest.raises(InputError, match="no slice in common"):
        compare_sweeps(first, others)
    renamed = (replace(SOME[1], wide=(0,)), SOME[0])
    with pytest.raises(InputError, match="different widths"):
        compare_sweeps(first, write_sweep(tmp_path / "renamed", slices=renamed, scale=0.1))

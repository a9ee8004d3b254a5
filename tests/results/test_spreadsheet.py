"""results.csv in a spreadsheet: text is text, whatever it says."""

import csv
import io

import pandas as pd
import pytest

from matformer_lab.results.tables.spreadsheet import spreadsheet_csv

FORMULAS = ["=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(A1)", " =1", "\t=1", "\r=1", "＝1", '="a"']


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", [*FORMULAS, "a;=1+1", 'a";=1', "a,=1", "a\t=1"])
def test_no_cell_starts_like_a_formula(name: str, separator: str) -> None:
    """Whatever separates cells where the file is opened."""
    text = spreadsheet_csv(pd.DataFrame([{"slice": name, "value": -0.5, "group": None}]))
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
        for cell in row:
            assert not cell.lstrip().startswith(("=", "+", "@", "＝"))
            assert not cell.startswith("-") or cell.startswith("-0.5")


def test_what_is_no_formula_is_read_back_as_it_was() -> None:
    frame = pd.DataFrame(
        {
            "slice": ["e2b", "größer, a", 'q"q', "x-1", "[red]"],
            "value": [0.5, -1e-9, 1 / 3, 1.0, 0.0],
            "n": range(5),
            "primary": [True, False] * 2 + [True],
            "group": [None, "mmlu", None, "b", "a"],
        }
    )
    again = pd.read_csv(io.StringIO(spreadsheet_csv(frame)))
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)

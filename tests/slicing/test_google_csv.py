"""Google's CSV: arithmetic is read, nothing is run."""

import os
import sys
from math import prod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.common.errors import InputError
from matformer_lab.slicing.builtin_slices import e4b_text_parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.notation.google_csv import integers, load_csv

HEAD = "name,# Layers,# Effective Params (B),MMLU PT accuracy,FFN Hidden Dims,Layers Skipped\n"


@given(st.lists(st.lists(st.integers(0, 10**9), min_size=1, max_size=4), max_size=40))
def test_products_are_multiplied_as_python_would(factors: list[list[int]]) -> None:
    cell = "[" + ", ".join(" * ".join(f"{n:_}" for n in item) for item in factors) + "]"
    assert integers(cell, "cell") == [prod(item) for item in factors]


@pytest.mark.parametrize(
    "cell",
    [
        "[__import__('os').system('touch ran')]",
        "[().__class__.__bases__]",
        "[2048 ** 99999]",
        "[2048 * 8; print(1)]",
        "[0x10]",
        "[-1]",
        "[1.5]",
        "[int(2048*3.5]",
        "[int(int(2))]",
        "[int (2\x0b* 3)]",
        "[float(2)]",
        "[2048*3.3]",
        "[1 2]",
        "[,1]",
        "[9999999999999]",
        "[٣]",
        "(1, 2)",
        "2_048 * 8",
        "[[1]]",
    ],
)
def test_anything_else_is_refused(cell: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cell"):
        integers(cell, "cell")
    assert not Path("ran").exists()


def test_widths_as_the_notebooks_write_them() -> None:
    cell = "[2048*3.5, int(2048*3.5), int( 2_048 * 3.3 ), 8_192]"
    assert integers(cell, "cell") == [7168, 7168, 6758, 8192]


def test_reading_a_file_never_compiles_or_runs_code(tmp_path: Path) -> None:
    """CPython reports every compile() and exec() to audit hooks; cells cause none."""
    path = tmp_path / "slices.csv"
    path.write_text(HEAD + 'a,2,1,50%,"[2_048 * 4, 8192]","[3]"\n')
    seen: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in ("compile", "exec", "os.system", "subprocess.Popen"):
            seen.append(f"{event} {arguments!r:.80}")

    load_csv(path)  # its codec is imported on first use, which executes the codec's own module
    sys.addaudithook(hook)
    (spec,) = load_csv(path)
    watching = False
    assert spec.name == "a" and spec.skip == (3,)
    assert isinstance(spec.widths, tuple)
    assert [int(w.value) for w in spec.widths] == [8192, 8192]
    assert seen == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "no column 'FFN Hidden Dims'"),
        (HEAD + 'row,1,1,1%,"[os.getcwd()]",\n', "line 2: FFN Hidden Dims: item 0"),
        (HEAD + ',1,1,1%,"[1]",\n', "line 2: the row needs a printable name"),
        (HEAD + 'row,1,1,1%,"[1]","[x]"\n', "line 2: Layers Skipped: item 0"),
        (HEAD + 'row,1,1,1%,"[1]","[9999]"\n', "line 2: skip: 9999 is not a layer"),
        (HEAD + 'row,1,1,1%,"[1]","[3, 3]"\n', "line 2: skip: skipped layer 3 is listed twice"),
        (HEAD + 'row,1,1,1%,"[2 *\x1c 4]",\n', "line 2: FFN Hidden Dims: item 0"),
        (HEAD + 'row,1,1,1%,"[2\u2028* 4]",\n', "line 2: FFN Hidden Dims: item 0"),
        (HEAD + 'row,1,1,1%,"[\x1d4]",\n', "line 2: FFN Hidden Dims: item 0"),
        (HEAD + 'row,1,1,1%,"[4]\x1e",\n', "line 2: FFN Hidden Dims: expected a list"),
        (HEAD + f'row,1,1,1%,"[{"9" * 9000}]",\n', "line 2: FFN Hidden Dims: item 0"),
        (HEAD + 'row\u202e,1,1,1%,"[1]",\n', "line 2: the row needs a printable name"),
        ("name," + HEAD, "column 'name' appears twice"),
    ],
)
def test_errors_name_line_and_column(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_csv(path)
    assert words in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("place", ["pipe", "folder", "/dev/zero"])
def test_only_regular_files_are_read(place: str, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    if place == "pipe":
        os.mkfifo(path)
    elif place == "folder":
        path.mkdir()
    else:
        path.symlink_to(place)
    with pytest.raises(InputError, match=r"not a regular file|cannot be read"):
        load_csv(path)


def test_a_name_that_two_rows_have_is_no_answer(tmp_path: Path) -> None:
    rows = "".join(f'row,1,1,1%,"[{width}]",\n' for width in (1, 2))
    (tmp_path / "s.csv").write_text(HEAD + rows)
    with pytest.raises(InputError, match="several slices are named 'row'"):
        resolve_slice(f"{tmp_path}/s.csv#row", e4b_text_parent())

"""A folder whose files contradict each other, or hold what cannot be, is refused by name."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from matformer_lab.results.files import MARKER
from matformer_lab.results.read import read_sweep
from matformer_lab.results.tables.score_file import parse_score, score_bytes
from tests.support.command import CommandResult, run_here
from tests.support.synthetic import SLICES, write_results, write_sweep

SOME = tuple(made for made in SLICES if made.name in ("e4b", "e2b"))
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweeps") / "good", slices=SOME, scale=0.01)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of the embedded parent, with its store."""
    folder = tmp_path_factory.mktemp("sweeps")
    recipe = {
        "parent": "tiny",
        "slices": ["e2b", "1/2"],
        "tasks": ["tiny_boolq"],
        "dtype": "float32",
        "limit": 20,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = run_here("sweep", folder / "recipe.yaml", "--out", folder / "real")
    assert done.code == 0, done.err
    return folder / "real"


def row(frame: pd.DataFrame, slice_: str = "e2b", task: str = "boolq") -> Any:
    found = np.flatnonzero((frame["slice"] == slice_) & (frame["task"] == task))
    return frame.index[found[0]]


def results(column: str, value: Any, *, csv: bool = True, task: str = "boolq") -> Damage:
    """Another value in results.parquet, and in results.csv too."""

    def damage(folder: Path) -> None:
        frame = pd.read_parquet(folder / "results.parquet")
        frame[column] = frame[column].astype(object)
        frame.loc[row(frame, task=task), column] = value
        if isinstance(value, str) and column in ("value", "n"):
            frame[column] = frame[column].astype(str)
        if csv:
            write_results(folder, frame)
        else:
            frame.to_parquet(folder / "results.parquet")

    return damage


def csv_only(folder: Path) -> None:
    frame = pd.read_csv(folder / "results.csv")
    frame.loc[row(frame), "value"] = 0.99
    frame.to_csv(folder / "results.csv", index=False)


def csv_row_less(folder: Path) -> None:
    frame = pd.read_csv(folder / "results.csv")
    frame.iloc[1:].to_csv(folder / "results.csv", index=False)


def row_hidden(folder: Path) -> None:
    frame = pd.read_parquet(folder / "results.parquet")
    write_results(folder, frame.drop(index=row(frame)))


def samples(edit: Callable[[pd.DataFrame], pd.DataFrame]) -> Damage:
    def damage(folder: Path) -> None:
        (path,) = folder.glob("samples/e2b/*boolq.parquet")
        edit(pd.read_parquet(path)).to_parquet(path)

    return damage


def first_without(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.assign(**{column: table[column].where(table.index > 0)})


def no_rows(folder: Path) -> None:
    path = folder / "results.parquet"
    pd.read_parquet(path).iloc[:0].to_parquet(path)


def no_parquet(folder: Path) -> None:
    (folder / "samples" / "e2b" / "boolq.parquet").write_bytes(b"PAR1xPAR1")


def another_dtype(folder: Path) -> None:
    frame = pd.read_parquet(folder / "results.parquet")
    write_results(folder, frame.assign(dtype="float32"))


def nan_in_samples(folder: Path) -> None:
    path = folder / "samples" / "e2b" / "boolq.parquet"
    table = pq.read_table(path)
    values = [float(value) for value in table["acc"].to_pylist()]
    at = table.schema.get_field_index("acc")
    column = pa.array([math.nan, *values[1:]], pa.float64())
    pq.write_table(table.set_column(at, "acc", column), path)


def swapped(folder: Path) -> None:
    shutil.copy(
        folder / "samples" / "e4b" / "boolq.parquet", folder / "samples" / "e2b" / "boolq.parquet"
    )


def changed(name: str, load: Callable[[str], Any], dump: Callable[[Any], str]) -> Any:
    """A damage to a file of nested values: `keys` lead to the one that becomes `to`."""

    def at(*keys: str | int, to: Any) -> Damage:
        def damage(folder: Path) -> None:
            document = load((folder / name).read_text())
            *path, last = keys
            part = document
            for key in path:
                part = part[key]
            part[last] = to
            (folder / name).write_text(dump(document))

        return damage

    return at


described = changed("slices.json", json.loads, json.dumps)
recipe = changed("recipe.yaml", yaml.safe_load, yaml.safe_dump)


E2B = ("slices", 1)
CASES: dict[str, tuple[Damage, str]] = {
    # results against samples and against each other
    "a better score": (results("value", 0.99), "boolq (acc) is 0.99, but its samples say"),
    "a better score, parquet only": (results("value", 0.99, csv=False), "results.csv: value of"),
    "a better score, csv only": (csv_only, "results.csv: value of e2b on boolq (acc) is 0.99"),
    "a row less in the csv": (csv_row_less, "results.csv: has "),
    "a score hidden": (row_hidden, "has no score of e2b on boolq, but"),
    "other items": (results("n", 7), "n of e2b on boolq (acc) is 7"),
    "other sizes": (results("effective_params", 1), "effective_params of e2b is 1"),
    "other samples": (samples(lambda t: t.assign(acc=1)), "but its samples say 1;"),
    "another slice's samples": (swapped, "holds samples of slice e4b, not of e2b"),
    # results that cannot be
    "text for a score": (
        results("value", "high"),
        "(acc_norm): value: should be a valid number (got '0.",
    ),
    "no score": (results("value", None), "e2b on boolq (acc): value: "),
    "an infinite score": (results("value", math.inf), "e2b on boolq (acc): value: "),
    "an infinite score that is not shown": (
        results("value", math.inf, task="mmlu_subject_00"),
        "e2b on mmlu_subject_00 (acc): value: ",
    ),
    "no count": (results("n", None), "e2b on boolq (acc): n: "),
    "a negative count": (results("n", -4), "e2b on boolq (acc): n: "),
    "half an item": (results("n", 1.5), "e2b on boolq (acc): n: "),
    "no slice": (results("slice", None), "slice: "),
    "no rows": (no_rows, "no scores yet"),
    # samples that cannot be
    "no doc_id": (samples(lambda t: t.drop(columns="doc_id")), "no column doc_id"),
    "no samples": (samples(lambda t: t.iloc[:0]), "boolq.parquet: has no rows"),
    "an outcome missing": (
        samples(lambda t: first_without(t, "acc")),
        "acc of item boolq/0 is missing",
    ),
    "an outcome that is NaN": (nan_in_samples, "acc of item boolq/0 is nan"),
    "an outcome in words": (
        samples(lambda t: t.assign(acc=t["acc"].map({0: "no", 1: "yes"}))),
        "not a finite number",
    ),
    "an item twice": (samples(lambda t: t.assign(doc_id=0)), "an item is listed twice"),
    "an item without number": (
        samples(lambda t: first_without(t, "doc_id")),
        "doc_id must hold",
    ),
    "no parquet": (no_parquet, "boolq.parquet: cannot be read"),
    # slices that cannot be
    "no widths": (described(*E2B, "widths", to=[]), "slice e2b: 0 widths for 30 kept"),
    "a negative width": (described(*E2B, "widths", 3, to=-8), "slices[1].widths[3]: "),
    "a huge width": (described(*E2B, "widths", 3, to=10**9), "is above the parent's 16,384"),
    "an impossible width": (described(*E2B, "widths", 3, to=10**40), "slices[1].widths[3]: "),
    "a width in words": (described(*E2B, "widths", 3, to="8192"), "slices[1].widths[3]: "),
    "widths of another type": (described(*E2B, "widths", to={"0": 1}), "slices[1].widths: "),
    "a layer skipped twice": (described(*E2B, "skipped", to=[20, 20, 21, 22, 23]), "skipped is"),
    "a layer that is not there": (described(*E2B, "skipped", 4, to=99), "skipped is"),
    "a billion layers": (described("parent", "num_hidden_layers", to=10**9), "num_hidden_layers"),
    "no layers": (described("parent", "num_hidden_layers", to=0), "num_hidden_layers"),
    "layers without type": (described("parent", "layer_types", to=[]), "layer_types has 0"),
    "shared layers": (described("parent", "num_kv_shared_layers", to=36), "is 36 of 35 layers"),
    "true for a count": (described(*E2B, "num_hidden_layers", to=True), "num_hidden_layers"),
    "no parameters": (described(*E2B, "params", "effective", to=0), "params.effective"),
    "sizes in words": (described(*E2B, "bytes", to="many"), "slices[1].bytes"),
    "a label in words": (
        described(*E2B, "published", "effective_params_b", to="x"),
        "published.effective_params_b is not a number",
    ),
    "a slice twice": (described(*E2B, "name", to="e4b"), "a slice is described twice"),
    # the recipe as it ran
    "another dtype": (another_dtype, "dtype is bfloat16, but float32"),
    "another fingerprint": (recipe("as_run", "parent", "fingerprint", to="0"), "fingerprint is 0"),
    "another slice": (recipe("as_run", "slices", to={"e2b": "0" * 64}), "as_run.slices.e2b"),
    "a list of runs": (recipe("as_run", to=[]), "as_run: "),
    "a limit in words": (recipe("limit", to="all"), "limit: "),
    "an endless limit": (recipe("limit", to=math.inf), "limit: "),
    "another metric": (
        recipe("tasks", to=[{"name": "boolq", "metric": "f1"}]),
        "boolq was asked for f1",
    ),
}


def _refused(command: CommandResult, wanted: str) -> None:
    assert command.code == 2 and not command.out, command
    assert wanted in command.err and len(command.err.splitlines()) == 1, command.err


@pytest.mark.parametrize("case", CASES)
def test_report_and_gate_refuse_by_name(good: Path, tmp_path: Path, case: str) -> None:
    damage, wanted = CASES[case]
    folder = tmp_path / "sweep"
    shutil.copytree(good, folder)
    damage(folder)
    _refused(run_here("report", folder), wanted)
    _refused(run_here("gate", folder, "--baseline", tmp_path / "b.yaml", "--update"), wanted)
    assert not (folder / "report.html").exists() and not (tmp_path / "b.yaml").exists()


def stored_result(column: str, value: float) -> Damage:
    def damage(folder: Path) -> None:
        frame = pd.read_parquet(folder / "results.parquet")
        frame.loc[row(frame, task="tiny_boolq"), column] = value
        write_results(folder, frame)

    return damage


def all_right(folder: Path) -> None:
    samples(lambda t: t.assign(acc=1.0))(folder)
    stored_result("value", 1.0)(folder)


STORED: dict[str, tuple[Damage, str]] = {
    "scores and samples alike": (all_right, "value of e2b on tiny_boolq (acc) is 1.0, but"),
    "an error of its own": (
        stored_result("stderr", 0.5),
        "stderr of e2b on tiny_boolq (acc) is 0.5, but",
    ),
    "other items right": (
        samples(lambda t: t.assign(acc=t["acc"].to_numpy()[::-1].copy())),
        "contradicts",
    ),
}


@pytest.mark.parametrize("case", STORED)
def test_what_contradicts_the_store_is_refused(real: Path, tmp_path: Path, case: str) -> None:
    damage, wanted = STORED[case]
    folder = tmp_path / "sweep"
    shutil.copytree(real, folder)
    assert run_here("report", folder).code == 0
    damage(folder)
    _refused(run_here("report", folder), wanted)


def test_a_score_that_is_no_mean_is_believed_where_the_store_says_it(
    real: Path, tmp_path: Path
) -> None:
    """A corpus-level metric: nothing but the store can say what it is."""
    folder = tmp_path / "sweep"
    shutil.copytree(real, folder)
    (folder / MARKER).unlink()  # as 0.1.0 wrote folders; else the edit itself is noticed
    stored_result("value", 0.123)(folder)
    stored = folder / "store" / "tiny_boolq"
    digest = read_sweep(real).scored[0].slice.digest
    (path,) = stored.glob(f"{digest[:16]}-*.parquet")
    content, items = parse_score(path.read_bytes())
    content["rows"][0]["value"] = 0.123
    path.write_bytes(score_bytes(items.to_pylist(), content))
    (task,) = read_sweep(folder).tasks
    assert task.outcomes is None and 0.123 in task.values
    shutil.rmtree(folder / "store")
    _refused(run_here("report", folder), "is 0.123, but its samples say")


EDITS = {
    "the limit": ("limit: ", "limit: null #"),
    "the scorer": ("scorer: prefix", "scorer: lm-eval"),
    "the few-shot count": ("num_fewshot: ", "num_fewshot: 3 #"),
    "a version": ("transformers: ", "transformers: 1.0.0 #"),
    "the tokenizer": ("sha256: ", "sha256: 0"),
    "a blank line": ("parent: ", "\nparent: "),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_recipe_that_was_edited_is_refused(real: Path, tmp_path: Path, edit: str) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(real, folder)
    written = (folder / "recipe.yaml").read_text()
    before, after = EDITS[edit]
    assert before in written
    (folder / "recipe.yaml").write_text(written.replace(before, after, 1))
    done = run_here("report", folder)
    assert done.code == 2 and "recipe.yaml" in done.err and done.err.count("\n") == 1, done


def test_samples_that_are_gone_are_named(real: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(real, folder)
    shutil.rmtree(folder / "samples")
    _refused(run_here("report", folder), "was removed after the sweep wrote it")


def test_a_forged_key_does_not_hide_a_forged_score(real: Path, tmp_path: Path) -> None:
    """Without the marker too, as in a folder of 0.1.0: the store has scores, and none fits."""
    folder = tmp_path / "sweep"
    shutil.copytree(real, folder)
    (folder / MARKER).unlink()
    written = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(written.replace("sha256: ", "sha256: 0", 1))
    _refused(
        run_here("report", folder),
        "contradicts every stored score of e2b on tiny_boolq (tokenizer is 0",
    )

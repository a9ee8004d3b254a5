"""Tables of a sweep folder, without a model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.score import Metric
from matformer_lab.parent.opening import open_parent
from matformer_lab.results.load import load_results, load_samples
from matformer_lab.results.own_files import own_files
from matformer_lab.results.tables.description import describe
from matformer_lab.results.tables.parquet import read_parquet
from matformer_lab.results.tables.rows import result_rows
from matformer_lab.results.write import SamplesTable, write_tables
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import SizedPlan, sizes_of
from tests.support.kill_loop import contents


def row(metric: str, task: str = "mmlu", group: str | None = None) -> Metric:
    return Metric(task, group, metric, 0.5, 0.1, 4, 5, True, "1")


@pytest.fixture(scope="module")
def sized(pico_full: Path) -> SizedPlan:
    parent = open_parent(str(pico_full))
    (slice_,) = resolve_slices([{"name": "a b", "widths": "1/2", "skip": 6}], parent)
    plan = make_plan(parent, slice_)
    return SizedPlan(plan, sizes_of(plan))


@pytest.mark.parametrize(
    ("rows", "wanted", "primary"),
    [
        ([row("acc"), row("acc_norm")], "acc_norm", ["acc_norm"]),
        ([row("acc"), row("acc", "mmlu_x", "mmlu")], "acc", ["acc"]),
        ([row("em,strict"), row("em,flexible")], "em", ["em,strict"]),
        ([row("em,strict"), row("em,flexible")], "em,flexible", ["em,flexible"]),
    ],
)
def test_one_row_of_a_task_is_the_one_to_plot(
    sized: SizedPlan, rows: list[Metric], wanted: str, primary: list[str]
) -> None:
    found = result_rows(sized, rows, wanted, {"seed": 1})
    assert [one["metric"] for one in found if one["primary"]] == primary
    assert [one["task"] for one in found if one["primary"]] == ["mmlu"]


def test_a_slice_is_described_by_what_it_keeps(sized: SizedPlan) -> None:
    described = describe(sized.plan.parent, [sized]).model_dump(by_alias=True)["slices"][0]
    assert described["name"] == "a b"
    assert described["slug"].startswith("a-b")
    assert described["skipped"] == (6,)
    assert described["num_hidden_layers"] == len(described["widths"]) == 9
    assert len(described["layer_types"]) == 9
    assert described["params"]["total"] > described["params"]["text"]  # the towers
    assert described["published"] is None


def tables(sized: SizedPlan, names: list[str]) -> dict[str, Any]:
    return {
        "rows": result_rows(sized, [row("acc")], "acc", {"seed": 1}),
        "description": describe(sized.plan.parent, [sized]),
        "recipe": "parent: tiny\n",
        "samples": [
            (Path("samples", name), pa.table({"slice": ["a b"], "acc": [1.0]})) for name in names
        ],
    }


def test_new_tables_leave_nothing_of_the_old_ones(tmp_path: Path, sized: SizedPlan) -> None:
    write_tables(own_files(tmp_path), **tables(sized, ["one/mmlu.parquet", "two/mmlu.parquet"]))
    own = own_files(tmp_path)
    with own.new_files() as new:
        for name in ("report.html", "frontier.png", "frontier.svg"):
            new.add(name, b"of the old tables")
        new.publish()
    (tmp_path / "notes.txt").touch()
    write_tables(own, **tables(sized, ["one/boolq.parquet"]))
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        *(".matformer_lab_sweep.json", "notes.txt", "recipe.yaml"),
        *("results.csv", "results.parquet", "samples/one/boolq.parquet", "slices.json"),
    ]
    assert not (tmp_path / "samples" / "two").exists()


def test_old_tables_stay_until_the_new_ones_are_whole(tmp_path: Path, sized: SizedPlan) -> None:
    write_tables(own_files(tmp_path), **tables(sized, ["one/mmlu.parquet"]))
    before = contents(tmp_path)

    def breaking() -> Iterator[SamplesTable]:
        yield from tables(sized, ["two/mmlu.parquet", "one/mmlu.parquet"])["samples"]
        raise InputError("a score was damaged meanwhile")

    with pytest.raises(InputError, match="damaged meanwhile"):
        write_tables(own_files(tmp_path), **{**tables(sized, []), "samples": breaking()})
    assert contents(tmp_path) == before
    assert not (tmp_path / "samples" / "two").exists()


def test_results_and_samples_come_back_as_frames(tmp_path: Path, sized: SizedPlan) -> None:
    write_tables(own_files(tmp_path), **tables(sized, ["one/mmlu.parquet"]))
    assert load_results(tmp_path)["value"].tolist() == [0.5]
    assert load_samples(str(tmp_path), "mmlu")["acc"].tolist() == [1.0]
    with pytest.raises(InputError, match="no samples of task 'boolq'"):
        load_samples(tmp_path, "boolq")


def test_text_that_is_no_utf8_is_one_line(tmp_path: Path) -> None:
    """As a damaged page has it; pyarrow itself notices only where the text is used."""
    path = tmp_path / "samples.parquet"
    pq.write_table(pa.table({"slice": pa.array([b"\x8b"]).view(pa.string())}), path)
    with pytest.raises(InputError, match=r"samples\.parquet: cannot be read"):
        read_parquet(path)

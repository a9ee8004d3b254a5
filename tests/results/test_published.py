"""Published scores: the model card's, beside measured ones and never among them."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from matformer_lab.results.model_card import Benchmark, model_card
from matformer_lab.results.published import COLUMN, card_variant, with_published
from matformer_lab.results.read import read_sweep
from matformer_lab.results.score_table import score_rows
from matformer_lab.results.tables.description import Description, read_description
from matformer_lab.sweep.recipe import load_recipe
from tests.support.synthetic import SLICES, write_sweep

MEASURED = [benchmark for benchmark in model_card().benchmarks if benchmark.task is not None]


def test_the_scores_are_those_of_the_reference_file(shared: Path) -> None:
    path = shared / "reference" / "gemma-3n-published-scores.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    ours = [
        (str(one.num_fewshot), one.variant, one.published.e2b, one.published.e4b)
        for one in model_card().benchmarks
    ]
    assert ours == [
        (row["n_shot"], row["variant"], float(row["E2B"]), float(row["E4B"])) for row in rows
    ]


@pytest.mark.parametrize("variant", ["PT", "IT"])
def test_the_recipes_hold_every_benchmark_that_lm_eval_has(variant: str) -> None:
    recipe = load_recipe(f"model-card-{variant.lower()}")
    asked = {(task.name, task.num_fewshot, task.metric) for task in recipe.tasks}
    card = {
        (one.task.name, one.task.num_fewshot, one.task.metric)
        for one in MEASURED
        if one.task is not None and one.variant == variant
    }
    assert asked == card
    assert model_card().parents[recipe.parent.removeprefix("google/")] == variant
    assert bool(recipe.apply_chat_template) == (variant == "IT")


def test_shots_are_the_cards() -> None:
    for one in MEASURED:
        assert one.task is not None
        assert one.num_fewshot in (one.task.num_fewshot, "few"), one.name


@pytest.mark.parametrize(
    ("keys", "says"),
    [({}, "either"), ({"task": {"name": "a", "num_fewshot": 0, "metric": "acc"}, "missing": "b"},
      "either"), ({"missing": "b", "published": {"e2b": 101, "e4b": 2}}, "less than or equal")],
)  # fmt: skip
def test_a_benchmark_is_measured_or_says_why_not(keys: dict[str, Any], says: str) -> None:
    row = {"name": "A", "variant": "PT", "metric": "accuracy", "num_fewshot": 0}
    with pytest.raises(ValueError, match=says):
        Benchmark.model_validate({**row, "published": {"e2b": 1, "e4b": 2}, **keys})


# --- whose scores they are ---


def described(tmp_path: Path, **parent: Any) -> Description:
    """As a sweep over E4B describes itself, with `parent` changed."""
    path = write_sweep(tmp_path, scale=0.002, slices=SLICES[:3]) / "slices.json"
    written = json.loads(path.read_text())
    written["parent"] |= parent
    path.write_text(json.dumps(written))
    return read_description(path)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("google/gemma-3n-E4B", "PT"),
        ("google/gemma-3n-E4B@main", "PT"),
        ("gemma-3n-E4B-it", "IT"),  # a local copy: the name of its folder
        ("unsloth/gemma-3n-E4B-it", "IT"),
        ("google/gemma-3n-E2B", None),
        ("me/my-gemma-3n-E4B-tuned", None),
        ("tiny", None),
    ],
)
def test_the_card_is_about_two_parents(tmp_path: Path, name: str, variant: str | None) -> None:
    assert card_variant(described(tmp_path, name=name).parent) == variant


@pytest.mark.parametrize("change", [{"hidden_size": 64}, {"intermediate_size": [32768] * 35}])
def test_another_size_of_that_name_is_another_model(tmp_path: Path, change: dict[str, Any]) -> None:
    assert card_variant(described(tmp_path, **change).parent) is None


def rows_of(description: Description, task: str, metric: str, shots: int) -> dict[str, Any]:
    rows = [
        {"slice": one.name, "task": task, "metric": metric, "num_fewshot": shots, "group": None,
         "primary": True, "value": 0.5}
        for one in description.slices
    ]  # fmt: skip
    return shown(with_published(rows, description))


def shown(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["slice"]: None if math.isnan(row[COLUMN]) else row[COLUMN] for row in rows}


def test_an_alias_is_known_by_its_task(tmp_path: Path) -> None:
    description = described(tmp_path)
    row = {"slice": "e4b", "task": "five", "metric": "acc", "num_fewshot": 5, "group": None,
           "primary": True}  # fmt: skip
    assert shown(with_published([row], description, {"five": "winogrande"})) == {"e4b": 0.717}
    assert shown(with_published([row], description)) == {"e4b": None}


def test_a_score_stands_beside_the_same_task_shots_and_metric(tmp_path: Path) -> None:
    pre = described(tmp_path / "pt")
    tuned = described(tmp_path / "it", name="google/gemma-3n-E4B-it")
    none = dict.fromkeys(("e4b", "e2b", "e1.96b-layer"))
    assert rows_of(pre, "piqa", "acc_norm", 0) == {**none, "e4b": 0.81, "e2b": 0.789}
    assert rows_of(pre, "piqa", "acc", 0) == none
    assert rows_of(pre, "piqa", "acc_norm", 5) == none
    assert rows_of(tuned, "piqa", "acc_norm", 0) == none
    assert rows_of(pre, "mmlu_pro", "exact_match,custom-extract", 0) == none
    assert rows_of(tuned, "mmlu_pro", "exact_match,custom-extract", 0)["e4b"] == 0.506


def test_mmlu_of_the_pre_trained_slices_is_not_the_tuned_models(tmp_path: Path) -> None:
    pre = described(tmp_path / "pt")
    tuned = described(tmp_path / "it", name="gemma-3n-E4B-it")
    assert rows_of(pre, "mmlu", "acc", 5) == {"e4b": 0.623, "e2b": 0.509, "e1.96b-layer": 0.534}
    assert rows_of(tuned, "mmlu", "acc", 0) == {"e4b": 0.649, "e2b": 0.601, "e1.96b-layer": None}
    assert not any(rows_of(tuned, "mmlu", "acc", 5).values())


def test_a_slice_is_known_by_its_layers_not_by_its_name(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, scale=0.002, slices=SLICES[:2]) / "slices.json"
    written = json.loads(path.read_text())
    for one, name in zip(written["slices"], ("full", "mine"), strict=True):
        one |= {"name": name, "published": None}
    path.write_text(json.dumps(written))
    description = read_description(path)
    assert rows_of(description, "winogrande", "acc", 5) == {"full": 0.717, "mine": 0.668}


# --- where they are shown ---


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, with None for NaN."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in plain.to_dict("records")]


def test_the_table_has_columns_of_their_own(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, scale=0.002, slices=SLICES[:3])
    frame = pd.read_parquet(folder / "results.parquet")
    before = score_rows(folder)  # of an earlier version, without the column
    rows = records(frame)
    description = read_description(folder / "slices.json")
    pd.DataFrame(with_published(rows, description)).to_parquet(folder / "results.parquet")
    after = score_rows(folder)
    width = len(before[0])
    assert [row[:width] for row in after] == before
    assert [cell.split()[0] for cell in after[0][width:]] == ["hellaswag", "boolq", "mmlu"]
    assert all("published, not measured" in cell for cell in after[0][width:])
    cells = {row[0]: row[width:] for row in after[1:]}
    assert cells["e4b"] == ("78.6", "81.6", "62.3")
    assert cells["e1.96b-layer"] == ("", "", "53.4")


def test_the_page_says_that_they_were_not_measured(tmp_path: Path) -> None:
    from matformer_lab.report.page import render

    folder = write_sweep(tmp_path, scale=0.005, slices=SLICES[:3])
    sweep = read_sweep(folder)
    assert sweep.published["hellaswag"] == pytest.approx({"e2b": 0.722, "e4b": 0.786})
    page = render(sweep)
    for title in ("HellaSwag, published", "BoolQ, published", "MMLU, published"):
        assert title in page
    assert "published, not measured here" in page
    measured = {score for panel in sweep.panels for score in panel.values}
    assert not measured & {0.722, 0.786}


def test_a_miniature_shows_none_of_the_cards(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, scale=0.005, slices=SLICES[:4], parent="tiny", shrink=4000)
    assert set(read_sweep(folder).published) == {"mmlu"}  # on axes of its own, of E4B's slices
    frame = pd.read_parquet(folder / "results.parquet")
    rows = records(frame)
    beside = with_published(rows, read_description(folder / "slices.json"))
    assert all(math.isnan(row[COLUMN]) for row in beside)


def test_the_groups_over_languages_join_all_that_lm_eval_has() -> None:
    import lm_eval.tasks

    from matformer_lab.evaluation.tasks.names import card_tasks_dir

    root = Path(lm_eval.tasks.__file__).parent
    counts = {
        "card_mgsm": len(list((root / "mgsm/native_cot").glob("mgsm_*.yaml"))),
        "card_include": len([p for p in (root / "include/default").iterdir() if p.is_dir()]),
        "card_mmlu_prox": len(list((root / "mmlu_prox").glob("*/_mmlu_prox_[!l]*.yaml"))),
        "card_global_mmlu": len([p for p in (root / "global_mmlu/full").iterdir() if p.is_dir()]),
        "card_global_mmlu_lite": len(list((root / "global_mmlu/default").glob("*/_*.yaml"))),
    }
    for path in card_tasks_dir().glob("*.yaml"):
        assert len(yaml.safe_load(path.read_text())["task"]) == counts.pop(path.stem), path.stem
    assert not counts

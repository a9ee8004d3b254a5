"""The slice editor: what its sliders say is the slice, and what it scores is that slice."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip("ipywidgets", reason="the notebook extra is not installed")

from matformer_lab.common.errors import InputError
from matformer_lab.notebook.editor import SliceEditor
from matformer_lab.slicing.notation.catalog import published_specs, resolve_slice, resolve_slices


@pytest.fixture
def editor() -> SliceEditor:
    return SliceEditor("tiny")


@pytest.mark.parametrize("name", [spec.name for spec in published_specs()])
def test_a_published_slice_survives_the_sliders_and_the_yaml(
    editor: SliceEditor, name: str, tmp_path: Path
) -> None:
    parent = editor.parent
    wanted = resolve_slice(name, parent)
    editor.load(name)
    assert editor.slice.digest == wanted.digest
    (again,) = resolve_slices([yaml.safe_load(editor.yaml())], parent)
    assert again == editor.slice and again.name == name
    (tmp_path / "mine.yaml").write_text(editor.yaml())
    assert resolve_slice("mine.yaml", parent, tmp_path).digest == wanted.digest


def test_moving_a_slider_shows_the_sizes_at_once(editor: SliceEditor) -> None:
    before = editor.report.value
    editor.sliders[3].value = 1
    assert editor.slice.widths[3] * 8 == editor.parent.text.intermediate_size[3]
    assert editor.slice.widths[2] == editor.parent.text.intermediate_size[2]
    assert editor.report.value != before
    assert f"{editor.plan.nbytes:,}" in editor.report.value


def test_whole_blocks_move_together(editor: SliceEditor) -> None:
    editor.by_block.value = True
    editor.sliders[7].value = 2
    assert editor.steps == (8,) * 5 + (2,) * 5 + (8,) * 25


def test_an_impossible_slice_is_said_and_not_kept(editor: SliceEditor) -> None:
    editor.sliders[18].value = 0
    assert "layer 18 feeds the shared K/V" in editor.report.value and "alert" in editor.report.value
    with pytest.raises(InputError, match="layer 18 feeds the shared K/V"):
        _ = editor.slice
    with pytest.raises(InputError, match="layer 18"):
        editor.score()
    editor.sliders[18].value = 8
    assert "alert" not in editor.report.value


def test_a_width_between_the_steps_is_refused(editor: SliceEditor, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("name: odd\nwidths: 33\n")
    with pytest.raises(InputError, match=r"layer 0: width 33 is not a whole number of eighths"):
        editor.load(str(path))


def test_scores_add_up_and_are_not_computed_twice(tmp_path: Path) -> None:
    recipe = {"tasks": ["tiny_mmlu"], "limit": 3}
    editor = SliceEditor("tiny", "1/8", recipe=recipe, out=tmp_path / "sweep")
    editor.score()
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep/store").rglob("*.*")}
    assert stored
    editor.load("e2b")
    scores = editor.score()
    assert list(scores["slice"]) == ["uniform-1-8", "e2b"]
    assert set(scores["task"]) == {"tiny_mmlu"}
    assert all(path.stat().st_mtime_ns == when for path, when in stored.items())
    editor.set({0: 1})
    with pytest.raises(InputError, match="new name"):
        editor.score()


def test_the_score_button_shows_errors_in_a_line(editor: SliceEditor) -> None:
    editor.sliders[19].value = 0
    editor.run.click()
    assert not editor.run.disabled


def test_the_slices_are_the_editors_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="slices: is set by the editor"):
        SliceEditor("tiny", recipe={"slices": ["e2b"]})

"""The static picture: what it shows, and that its labels do not collide."""

import json
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from matformer_lab.report.figure import draw, save_figure, size_unit
from matformer_lab.results.read import read_sweep
from matformer_lab.results.sweep_results import SweepResults
from matformer_lab.statistics.outcomes import Floats
from matformer_lab.statistics.pareto import pareto
from tests.support.synthetic import LAYERS, SLICES, Made, write_sweep


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SweepResults:
    return read_sweep(write_sweep(tmp_path_factory.mktemp("full"), scale=0.05))


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> SweepResults:
    folder = tmp_path_factory.mktemp("mini")
    return read_sweep(write_sweep(folder, scale=0.02, parent="tiny", shrink=4000))


def crowd() -> tuple[Made, ...]:
    rng = np.random.default_rng(0)
    return tuple(
        Made(f"sample-7-{k:03d}", tuple(np.flatnonzero(rng.random(LAYERS) < rng.random())))
        for k in range(45)
    )


def shown(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Every text with the extent it has on the canvas."""
    figure.canvas.draw()
    texts = [*figure.texts, *figure.legends[0].get_texts()]
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        # Among the children, as the left title has no public name.
        texts += [child for child in axes.get_children() if isinstance(child, Text)]
        texts += [axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    return [(text, text.get_window_extent()) for text in texts if text.get_text().strip()]


def xy(line: Line2D) -> tuple[Floats, Floats]:
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def segments(axes: Axes) -> list[Floats]:
    found: list[Floats] = []
    for bars in axes.collections:
        assert isinstance(bars, LineCollection)
        found += [np.asarray(segment, dtype=float) for segment in bars.get_segments()]
    return found


def labels(figure: Figure) -> list[tuple[Text, Bbox]]:
    names = {artist for axis in figure.axes for artist in axis.texts}
    return [(text, box) for text, box in shown(figure) if text in names]


@pytest.mark.parametrize("kind", ["finished", "miniature", "crowd"])
def test_no_two_texts_of_the_picture_overlap(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "crowd":
        sweep = read_sweep(write_sweep(tmp_path, slices=crowd(), scale=0.01))
    else:
        sweep = request.getfixturevalue(kind)
    figure = draw(sweep)
    texts = shown(figure)
    assert len(labels(figure)) > 20
    for (a, one), (b, two) in combinations(texts, 2):
        overlap = (
            min(one.x1, two.x1) - max(one.x0, two.x0),
            min(one.y1, two.y1) - max(one.y0, two.y0),
        )
        assert min(overlap) < 1, (a.get_text(), b.get_text(), overlap)
    frame = figure.bbox
    for text, box in texts:
        assert box.x0 >= 0 and box.x1 <= frame.x1 and box.y0 >= 0 and box.y1 <= frame.y1, text


def test_one_panel_a_task_and_one_for_the_average(finished: SweepResults) -> None:
    axes = [axis for axis in draw(finished).axes if axis.get_visible()]
    titles = [axis.get_title("left") for axis in axes]
    assert [title.split(",")[0].split()[0] for title in titles] == [
        "HellaSwag",
        "BoolQ",
        "MMLU",
        "Average",
    ]
    assert all("n = " in title for title in titles)
    assert all("effective parameters" in axis.get_xlabel() for axis in axes)


def test_points_bars_and_line_are_the_measured_ones(finished: SweepResults) -> None:
    figure = draw(finished)
    for axis, panel in zip(figure.axes, finished.panels, strict=False):
        drawn = {
            str(line.get_gid()).removeprefix("measured: "): (xy(line)[0][0], xy(line)[1][0])
            for line in axis.lines
            if str(line.get_gid()).startswith("measured: ")
        }
        assert set(drawn) == set(panel.slices)
        for name, value in zip(panel.slices, panel.values, strict=True):
            assert drawn[name] == pytest.approx((finished.effective[name] / 1e9, 100 * value))
        ends = sorted(tuple(segment[:, 1]) for segment in segments(axis))
        assert np.allclose(ends, sorted(map(tuple, 100 * panel.intervals)))
        (line,) = (line for line in axis.lines if line.get_gid() == "pareto")
        xs, ys = xy(line)
        on = pareto([finished.effective[name] for name in panel.slices], panel.values)
        assert sorted(ys) == pytest.approx(sorted(100 * panel.values[on]))
        assert (np.diff(xs) >= 0).all() and (np.diff(ys) > 0).all()


def test_published_scores_stand_apart(finished: SweepResults, miniature: SweepResults) -> None:
    def diamonds(figure: Figure) -> dict[str, list[float]]:
        return {
            axis.get_title("left"): sorted(
                xy(line)[1][0] for line in axis.lines if line.get_gid() == "published"
            )
            for axis in figure.axes
            if axis.get_visible()
        }

    expected = sorted(made.mmlu for made in SLICES if made.mmlu is not None)
    assert len(expected) == len(SLICES)
    beside = {title.split(",")[0]: found for title, found in diamonds(draw(finished)).items()}
    assert beside.pop("MMLU") == pytest.approx(expected)
    assert beside.pop("HellaSwag") == pytest.approx([72.2, 78.6])  # the model card's E2B and E4B
    assert beside.pop("BoolQ") == pytest.approx([76.4, 81.6])
    assert not any(beside.values())
    apart = diamonds(draw(miniature))
    (title,) = (title for title, found in apart.items() if found)
    assert "as published" in title and apart[title] == pytest.approx(expected)


def test_parent_and_nested_smallest_are_marked(finished: SweepResults) -> None:
    figure = draw(finished)
    for axis in figure.axes:
        markers = {str(line.get_gid()): line.get_marker() for line in axis.lines}
        assert markers["measured: e4b"] == "s" and markers["measured: e2b"] == "^"
        texts = {text.get_text() for text in axis.texts}
        assert {"e4b (parent)", "e2b (nested)"} <= texts


def test_files_are_the_same_every_time_and_ask_for_nothing(
    finished: SweepResults, tmp_path: Path
) -> None:
    png, svg = save_figure(finished, tmp_path)
    first = png.read_bytes(), svg.read_bytes()
    save_figure(finished, tmp_path)
    assert (png.read_bytes(), svg.read_bytes()) == first
    assert png.read_bytes().startswith(b"\x89PNG")
    for element in ET.parse(svg).getroot().iter():
        for key, value in element.attrib.items():
            if key.endswith("href"):
                assert value.startswith("#")


def test_names_are_no_mathematics_and_one_slice_is_enough(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, slices=(Made("a_$x^{$_b", (1,)),), scale=0.005)
    figure = draw(read_sweep(folder))
    assert any("$x^{" in text.get_text().replace("\\", "") for text, _ in labels(figure))


def test_a_task_without_outcomes_is_still_drawn(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, scale=0.01)
    for path in (folder / "samples").glob("*/boolq.parquet"):
        path.unlink()
    sweep = read_sweep(folder)
    assert [panel.name for panel in sweep.panels] == ["hellaswag", "boolq", "mmlu", "average"]
    assert sweep.panels[1].wins is None and "of 2 tasks" in sweep.title("average")
    assert len([axis for axis in draw(sweep).axes if axis.get_visible()]) == 4


def test_axes_are_in_units_that_read_well() -> None:
    assert size_unit([1.9e9, 3.98e9]) == (1e9, ", billions")
    assert size_unit([4.8e5]) == (1e3, ", thousands")
    assert size_unit([12.0]) == (1.0, "")


def test_a_parent_that_was_not_scored_is_not_marked(tmp_path: Path) -> None:
    sweep = read_sweep(write_sweep(tmp_path, slices=SLICES[2:5], scale=0.01))
    assert sweep.whole is None and sweep.smallest == "e1.96b-layer"
    assert json.loads((tmp_path / "slices.json").read_text())["slices"]
    draw(sweep)

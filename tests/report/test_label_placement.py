"""Labels beside their markers, over nothing else."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from matformer_lab.report.label_placement import Box, place_labels


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), min_size=1, max_size=25),
    st.data(),
)
def test_labels_never_cover_a_label_a_marker_or_the_edge(
    anchors: list[tuple[float, float]], data: st.DataObject
) -> None:
    sizes = [
        (data.draw(st.floats(5, 120)), data.draw(st.floats(5, 20))) for _ in range(len(anchors))
    ]
    spots = place_labels(anchors, sizes, bounds=Box(0, 0, 400, 300))
    boxes = [
        (x, y, x + w, y + h)
        for (x, y), (w, h) in ((s, z) for s, z in zip(spots, sizes, strict=True) if s is not None)
    ]
    for a, b in combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for x0, y0, x1, y1 in boxes:
        assert x0 >= 0 and y0 >= 0 and x1 <= 400 and y1 <= 300
        assert not any(x0 < x < x1 and y0 < y < y1 for x, y in anchors)


def test_a_lone_label_is_placed_and_lines_are_avoided() -> None:
    bounds = Box(0.0, 0.0, 400.0, 300.0)
    (free,) = place_labels([(200, 150)], [(60, 10)], bounds=bounds)
    assert free is not None and free[0] + 60 < 200 and free[1] > 150  # upper left
    wall = [(x, y) for x in range(120, 200, 2) for y in range(152, 190, 2)]
    (moved,) = place_labels([(200, 150)], [(60, 10)], bounds=bounds, obstacles=wall)
    assert moved is not None and moved != free

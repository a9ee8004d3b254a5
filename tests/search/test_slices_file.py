"""slices.yaml says what was found, in a form that a person reads and every command takes."""

import random
from pathlib import Path

from matformer_lab.parent.opening import open_parent
from matformer_lab.search.method.space import make_space, pattern_of
from matformer_lab.search.slices_file import slices_yaml
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.notation.width import Width


def test_what_is_written_is_what_is_read(pico: Path, tmp_path: Path) -> None:
    parent = open_parent(pico)
    widths = [Width.parse(width) for width in ("1/4", "1/2", 33, "full")]
    space = make_space(parent.text, widths, [(), (6, 7), (8,)])
    rng = random.Random(0)
    found = {f"best-{n}": space.draw(rng) for n in range(20)} | {"best-full": space.full}
    text = slices_yaml(str(pico), parent.text, found, dict.fromkeys(found, 'a "line": #'), ["x"])
    (tmp_path / "slices.yaml").write_text(text)
    for name, pattern in found.items():
        slice_ = resolve_slice(f"{tmp_path}/slices.yaml#{name}", parent)
        assert pattern_of(slice_, 10) == pattern


def test_the_pattern_can_be_seen(pico: Path) -> None:
    text = open_parent(pico).text
    written = slices_yaml("p", text, {"a": (16,) * 4 + (64,) * 3 + (0, 32, 32)}, {"a": ""}, [])
    assert "widths: {0-3: 1/4, 4-6: full, 8-9: 1/2}" in written
    assert "skip: [7]" in written

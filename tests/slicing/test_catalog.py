"""Where slices come from: built-in names, Google's names, files, a recipe's list."""

import re
from pathlib import Path

import pytest

from matformer_lab.common.errors import InputError
from matformer_lab.slicing.builtin_slices import builtin_slices, e4b_text_parent
from matformer_lab.slicing.notation.catalog import published_specs, resolve_slice, resolve_slices

E4B = e4b_text_parent()
NAMES = [
    *("e4b", "e2b", "e1.96b-layer", "e2.54b-layer", "e2.69b-layer", "e2.98b-layer"),
    *("e3.18b-layer", "e3.39b-layer", "e3.59b-layer", "e3.79b-layer", "e2.49b-block"),
    *("e2.73b-block", "e2.98b-block", "e3.24b-block", "e3.49b-block", "e3.79b-block"),
]


def test_the_sixteen_published_slices() -> None:
    assert [spec.name for spec in published_specs()] == NAMES
    assert len(resolve_slices(["published"], E4B)) == 16


def test_google_row_names_are_names_too() -> None:
    for spec in published_specs():
        assert spec.published is not None
        by_row = resolve_slice(spec.published.row, E4B)
        assert by_row == resolve_slice(spec.name, E4B)


def test_published_labels_are_close_to_the_count() -> None:
    for entry in builtin_slices():
        label = entry.published.effective_params_b
        assert abs(entry.effective / 1e9 - label) <= 0.0196, entry.name


def test_our_slices_equal_googles_csv(shared: Path) -> None:
    csv = shared / "reference" / "gemma3n-slicing-configs.csv"
    theirs = resolve_slices([str(csv)], E4B)
    ours = resolve_slices(["published"], E4B)
    assert [(s.widths, s.skipped) for s in theirs] == [(s.widths, s.skipped) for s in ours]
    assert [s.published for s in theirs] == [s.published for s in ours]
    one = resolve_slice(f"{csv}#Config for E2.69B (layer-level)", E4B)
    assert one.widths == resolve_slice("e2.69b-layer", E4B).widths


def test_files(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("{name: mine, widths: 1/2}")
    (tmp_path / "two.yaml").write_text("slices: [{name: a, widths: 1/2}, {name: b, widths: full}]")
    assert resolve_slice("one.yaml", E4B, tmp_path).name == "mine"
    assert resolve_slice("two.yaml#b", E4B, tmp_path).widths == (16384,) * 35
    assert [s.name for s in resolve_slices(["two.yaml"], E4B, tmp_path)] == ["a", "b"]
    with pytest.raises(InputError, match=r"holds 2 slices \(a, b\); choose one as two.yaml#NAME"):
        resolve_slice("two.yaml", E4B, tmp_path)
    with pytest.raises(InputError, match="no slice named 'c'; it has a, b"):
        resolve_slice("two.yaml#c", E4B, tmp_path)
    with pytest.raises(InputError, match="no such file"):
        resolve_slice("three.yaml", E4B, tmp_path)


def test_a_list_names_each_slice_once() -> None:
    assert len(resolve_slices(["e2b", "published", "e2b"], E4B)) == 16
    with pytest.raises(InputError, match="a different slice is already named 'e2b'"):
        resolve_slices(["e2b", {"name": "e2b", "widths": "1/2"}], E4B)
    with pytest.raises(InputError, match="the list is empty"):
        resolve_slices([], E4B)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"did you mean 'e2\.98b-layer'"):
        resolve_slice("e2.98-layer", E4B)


@pytest.mark.parametrize(
    "content",
    [
        "!!python/object/apply:os.system ['touch ran']",
        "name: !!python/name:os.system",
        "{name: a, name: b, widths: full}",
        "a: &a [x, x]\nb: *a",
        "{name: a, widths: {0-3: 1/2, 0-3: full}}",
        "[",
        "- name: a",
        "slices: 3",
        "\x00",
        "name: [a]\nwidths: full",
    ],
)
def test_untrusted_yaml_is_refused_and_runs_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(content)
    with pytest.raises(InputError, match=r"s\.yaml"):
        resolve_slice("s.yaml", E4B, tmp_path)
    assert not (tmp_path / "ran").exists() and not Path("ran").exists()


@pytest.mark.parametrize("ref", ["1", "2", "15", "1.0", "2.0"])
def test_a_bare_number_that_is_hardly_meant_as_hidden_units(ref: str) -> None:
    """People write 1 for the whole FFN, and 4 for 4x. What the message says to write is taken."""
    with pytest.raises(InputError) as refused:
        resolve_slice(ref, E4B)
    said = str(refused.value)
    assert ("full for the whole FFN" in said) == (float(ref) == 1)
    (multiple,) = re.findall(r"(\d+x) for", said)
    (units,) = re.findall(r"widths: (\d+) in a file", said)
    if float(multiple[:-1]) <= 8:
        assert resolve_slice(multiple, E4B).widths[0] == 2048 * float(ref)
    (slice_,) = resolve_slices([{"name": "mine", "widths": int(units)}], E4B)
    assert slice_.widths[0] == float(ref)


def test_numbers_at_the_edge_of_what_is_hidden_units() -> None:
    assert resolve_slice("16", E4B).widths[0] == 16


@pytest.mark.parametrize("half", ["1/2", "0.5", ".5", "0.50", "50%", "4x", "4X", 0.5, 8192, 8192.0])
def test_spellings_of_one_width(half: object) -> None:
    (slice_,) = resolve_slices([half], E4B)
    assert slice_.widths == (8192,) * 35
    (again,) = resolve_slices([{"name": "mine", "widths": half}], E4B)
    assert again.widths == slice_.widths


def test_two_spellings_of_one_slice_are_one() -> None:
    assert [s.name for s in resolve_slices(["1/2", 0.5, "50%"], E4B)] == ["uniform-1-2"]


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("1.0", "width 1.0 may be .*; write full for the whole FFN, 1x for"),
        (2.0, "write 2x for 2 hidden_size, or widths: 2 in a file"),
        *((ref, r"keep nothing of .* 1/2, 0\.5") for ref in ("0", "0.0", "0%", "0x", "0/3", 0)),
        *((ref, r"negative width; .* 1/2, 0\.5") for ref in ("-1", "-0.5", "-50%", "-1/2", -1)),
        ("0.3", r"width 3/10 .* is 4915.2, not an integer; the nearest are 4915 and 4916"),
        ("200%", "width 32768 is over the parent's 16384"),
        ("2.98", "width 2.98 is not an integer"),
        *((ref, r"a width .* is written 1/2, 0.5") for ref in ("half", "½", "0x2000", "16e3")),
        ("E2B-it", r"the nearest are .*e2b \(1.91B\)"),
        ("e2b_layer", r"the nearest are e1.96b-layer"),
        (True, "must be a mapping"),
    ],
)
def test_what_is_no_width_is_told(ref: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        resolve_slices([ref], E4B)

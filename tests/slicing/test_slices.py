"""Slices as written and as checked: forms, resolution, errors that name the layer, the sampler."""

import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.common.errors import InputError
from matformer_lab.slicing.builtin_slices import e4b_text_parent
from matformer_lab.slicing.notation.catalog import resolve_slice, resolve_slices
from matformer_lab.slicing.notation.width import Width
from matformer_lab.slicing.slice import Slice

E4B = e4b_text_parent()


def resolve(**written: Any) -> Slice:
    (slice_,) = resolve_slices([{"name": "s", **written}], E4B)
    return slice_


def test_every_way_to_write_the_same_slice() -> None:
    half_with_a_full_block = [8192] * 20 + [16384] * 5 + [8192] * 10
    forms: list[Any] = [
        {"widths": half_with_a_full_block},
        {"widths": {"0-19": "1/2", "20-24": "full", "25-34": "1/2"}},
        {"widths": {"0-19": "4x", "20-24": "8x", "25-34": 8192}},
        {"blocks": ["1/2", "1/2", "1/2", "1/2", "full", "1/2", "1/2"]},
    ]
    found = {resolve(**form).widths for form in forms}
    assert found == {tuple(half_with_a_full_block)}
    assert resolve(**forms[0]).digest == resolve_slice("e2.49b-block", E4B).digest


def test_uniform_shorthand() -> None:
    assert resolve_slice("1/4", E4B) == Slice("uniform-1-4", (4096,) * 35)
    assert resolve_slice("4096", E4B).widths == (4096,) * 35


def test_skips() -> None:
    for skip in ("20-24", [20, 21, 22, 23, 24], ["20-22", 23, 24], [24, 23, 22, 21, 20]):
        slice_ = resolve(widths="1/2", skip=skip)
        assert slice_.skipped == (20, 21, 22, 23, 24)
        assert slice_.widths == (8192,) * 30
    assert resolve(blocks=["full"] * 7, skip=[7]).kept(35) == (*range(7), *range(8, 35))


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"widths": {"0-6": "1/2", "7": 0, "8-34": "1/2"}}, "layer 7: width is 0"),
        ({"widths": [16384] * 12 + [16385] + [16384] * 22}, "layer 12: width 16385 is over"),
        ({"widths": {"0-33": "full", "34": "3/2"}}, "layer 34: width 24576 is over"),
        ({"widths": {"0-33": "full", "34": "1/3"}}, "layer 34: width 1/3 of the parent's 16384"),
        ({"widths": [8192.5] * 35}, "width 8192.5 is not an integer"),
        ({"widths": [True] * 35}, "width True is neither"),
        ({"widths": "wide"}, "width 'wide' is neither"),
        ({"widths": "1/0"}, "width '1/0' is neither"),
        ({"widths": [8192] * 34}, "34 widths for 35 kept layers"),
        ({"widths": [8192] * 35, "skip": "20-24"}, "35 widths for 30 kept layers"),
        ({"widths": {"0-33": "full"}}, "layer 34: no width given"),
        ({"widths": {"0-35": "full"}}, "layer 35: the parent has layers 0 to 34"),
        ({"widths": {"0-5": "full", "5-34": "1/2"}}, "layer 5 is given two widths"),
        ({"widths": {"0-34": "full"}, "skip": [21]}, "layer 21: has a width, but is skipped"),
        ({"blocks": ["full"] * 6}, "6 block widths for the parent's 7 attention blocks"),
        ({"widths": "full", "skip": [35]}, "skipped layer 35: the parent has layers 0 to 34"),
        ({"widths": "full", "skip": [-1]}, "-1 is not a layer"),
        ({"widths": "full", "skip": "24-20"}, "'24-20' is not a run"),
        ({"widths": "full", "skip": [20, 20]}, "skipped layer 20 is listed twice"),
        ({"widths": "full", "skip": [18]}, "skipped layer 18 feeds the shared K/V"),
        ({"widths": "full", "skip": [19]}, "skipped layer 19 feeds the shared K/V"),
        ({"widths": "full", "skip": [4, 9, 14, 19, 24, 29, 34]}, "leaves no full_attention layer"),
        ({"widths": "full", "skip": "20-34"}, "leaves no layer that shares K/V"),
        ({"widths": "full", "blocks": ["full"] * 7}, "give either widths or blocks"),
        ({}, "give either widths or blocks"),
        ({"widths": "full", "skipp": [3]}, "unknown key 'skipp'; did you mean 'skip'?"),
    ],
)
def test_what_is_wrong_is_said_and_where(written: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(**written)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@given(st.integers(1, 64), st.integers(1, 64))
def test_a_fraction_means_exactly_that_share_of_the_layer(over: int, under: int) -> None:
    width = Width.parse(f"{over}/{under}")
    share = Fraction(over, under) * 16384
    if share.denominator == 1 and 1 <= share <= 16384:
        assert width.units(0, E4B.text) == share
    else:
        with pytest.raises(InputError, match="layer 0"):
            width.units(0, E4B.text)


SAMPLER = {"sample": 12, "widths": ["1/2", "full"], "skip": [[], "20-24"], "seed": 3, "name": "m"}


def test_the_sampler_repeats_itself_and_draws_what_is_allowed() -> None:
    first, again = resolve_slices([SAMPLER], E4B), resolve_slices([SAMPLER], E4B)
    assert first == again
    assert [slice_.name for slice_ in first] == [f"m-3-{n:03d}" for n in range(12)]
    assert len({slice_.digest for slice_ in first}) == 12
    assert {slice_.skipped for slice_ in first} == {(), (20, 21, 22, 23, 24)}
    assert {width for slice_ in first for width in slice_.widths} == {8192, 16384}
    other = resolve_slices([{**SAMPLER, "seed": 4}], E4B)
    assert {slice_.digest for slice_ in other} != {slice_.digest for slice_ in first}


def test_the_sampler_draws_whole_blocks() -> None:
    for slice_ in resolve_slices([{**SAMPLER, "by": "block", "skip": [[]]}], E4B):
        assert all(len(set(slice_.widths[n : n + 5])) == 1 for n in range(0, 35, 5))


def test_the_sampler_says_when_the_choices_run_out() -> None:
    with pytest.raises(InputError, match="only 1 distinct slices"):
        resolve_slices([{"sample": 2, "widths": ["full"]}], E4B)


@given(st.text(max_size=120))
def test_a_slug_is_a_safe_file_name(name: str) -> None:
    slug = Slice(name, (1,)).slug
    assert slug
    assert set(slug) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not slug.startswith(".")


def test_slugs_of_different_names_differ() -> None:
    assert Slice("a/b", (1,)).slug != Slice("a b", (1,)).slug != Slice("a-b", (1,)).slug


@pytest.mark.parametrize("hidden", ["\u202e", "\u2066", "\u200b", "\x9b", "\x1b", "\ufeff", "\n"])
def test_a_name_with_a_character_that_cannot_be_seen(hidden: str) -> None:
    for entry in (
        {"name": f"a{hidden}b", "widths": "1/2"},
        {"name": f"a{hidden}b", "sample": 1, "widths": ["1/2"]},
    ):
        with pytest.raises(InputError, match="name: "):
            resolve_slices([entry], E4B)


@pytest.mark.parametrize(
    "name", ["x[/]", "[red]", "=cmd|' /C calc'!A0", "größer 3½ 中 😀", "a$\\frac$"]
)
def test_a_name_with_any_character_that_can_be_seen(name: str) -> None:
    assert resolve_slices([{"name": name, "widths": "1/2"}], E4B)[0].name == name


def test_a_sampler_counts_before_it_draws() -> None:
    sampler: dict[str, Any] = {"sample": 10_000, "widths": ["1/2", "full", 8192], "by": "block"}
    started = time.monotonic()
    with pytest.raises(InputError, match="only 128 distinct"):
        resolve_slices([sampler], E4B)
    with pytest.raises(InputError, match="only 320 distinct"):
        resolve_slices([{**sampler, "skip": [[], "20-24", [24, 23, 22, 21, 20], 7]}], E4B)
    assert time.monotonic() - started < 5
    assert len(resolve_slices([{**sampler, "sample": 128}], E4B)) == 128


def test_a_sampler_refuses_what_it_might_draw() -> None:
    for wrong in ({"widths": ["1/2", 99999]}, {"widths": ["1/2"], "skip": [[], 18]}):
        with pytest.raises(InputError, match="sampler mix: "):
            resolve_slices([{"sample": 1, **wrong}], E4B)


def test_skip_lists_of_any_length_take_seconds() -> None:
    started = time.monotonic()
    for skip in (["0-1023"] * 100_000, [7] * 100_000, list(range(100_000)), "9" * 10**6):
        with pytest.raises(InputError):
            resolve(widths="1/2", skip=skip)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("written", "units"),
    [
        ("3.5x", 7168),
        ("3.5 x", 7168),
        ("int(2048*3.5)", 7168),
        ("2_048 * 8", 16384),
        ("2048 * 2 * 2", 8192),
        ("8_192", 8192),
        ("int(2048 * 3.3)", 6758),
    ],
)
def test_widths_as_people_write_them(written: str, units: int) -> None:
    text = e4b_text_parent().text
    width = Width.parse(written)
    assert width.units(0, text) == units
    assert Width.parse(str(width)).units(0, text) == units


@pytest.mark.parametrize(
    "written",
    ["3.5.1x", "x", "1e3x", "2**3", "int(2", "int(__import__('os'))", "2048 *", "-1", "2048.5x2"],
)
def test_no_other_arithmetic_is_read(written: str) -> None:
    with pytest.raises(ValueError, match="width"):
        Width.parse(written)

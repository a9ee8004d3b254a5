"""YAML is read as plain values or refused in a line: never run, never waited for."""

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.common.errors import InputError
from matformer_lab.common.files import strict_yaml
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.strict_yaml import load_yaml, parse_yaml

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
AWKWARD = st.sampled_from(
    [
        *("", "~", "null", "yes", "No", "on", "1:30", "1_000", "0x1f", "017", "1e3", "1.5", ".inf"),
        *("-", "2026-11-28", "2026-11-28T01:02:03Z", "=", "<<", "*a", "&a", "!!int", "1/2", "a: b"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS | AWKWARD
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | AWKWARD, inner, max_size=4),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize("events", ["CSafeLoader", "SafeLoader"])
@given(value=VALUES)
def test_what_is_dumped_is_read_back(events: str, value: Any) -> None:
    loader = getattr(yaml, events, None)
    if loader is None:
        pytest.skip("this PyYAML is without libyaml")
    before = strict_yaml._Events
    strict_yaml._Events = loader
    try:
        assert same(value, parse_yaml(yaml.safe_dump(value).encode(), "x"))
    finally:
        strict_yaml._Events = before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((f"a: {tagged}", "tags") for tagged in ("!!bool x", "!!timestamp x", '!!int ""', "! x")),
        *((f"a: !!{tag} x", "tags") for tag in ("int", "float", "binary", "null", "set", "omap")),
        ("!!python/object/apply:os.getcwd []", "tags"),
        ("&a [*a]", "aliases"),
        ("a: &b 1\nc: *b", "line 2: aliases"),
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' appears twice"),
        ("1: a\ntrue: b", "appears twice"),
        ("[1]: 2", "a key is a list"),
        ("{a: 1}: 2", "a key is a list"),
        ("--- a\n--- b", "several documents"),
        ("a: " + "9" * 5000, "a number of 5,000"),
        ("a: 0." + "9" * 5000, "a number of 5,002"),
        ('a: "\\0"', "NUL"),
        ('"\\0": a', "NUL"),
        ('a: "\\ud800"', "not valid YAML"),
        *((deep * 100_000, "100 levels") for deep in ("[", "- ", "{a: ", "? ", "[{a: ")),
        ("\x00", "not valid YAML"),
    ],
    ids=lambda text: text[:24],
)
def test_refused_in_a_line(text: str, words: str) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match="not valid YAML") as refused:
        parse_yaml(text.encode(), "file.yaml")
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert time.monotonic() - started < 10


def test_numbers_to_the_base_of_60_and_of_8_are_text() -> None:
    long = "1" + ":59" * 300_000
    started = time.monotonic()
    found = parse_yaml(f"[{long}, 1:30, 1:30.5, 010, 0x10, 2001-02-30, yes]".encode(), "x")
    assert found == [long, "1:30", "1:30.5", "010", "0x10", "2001-02-30", "yes"]
    assert time.monotonic() - started < 10


def test_more_values_than_any_file_has() -> None:
    with pytest.raises(InputError, match="500,000 values"):
        parse_yaml(b"[" + b"1," * 600_000 + b"]", "x")


@pytest.mark.parametrize(
    "place", ["/dev/zero", "pipe", "folder", "link to /dev/zero", "a\0b", "no"]
)
def test_only_regular_files_are_read(place: str, tmp_path: Path) -> None:
    path = tmp_path / place.replace("/", "")
    if place == "pipe":
        os.mkfifo(path)
    elif place == "folder":
        path.mkdir()
    elif place.startswith("link"):
        path.symlink_to("/dev/zero")
    elif place == "/dev/zero":
        path = Path(place)
    with pytest.raises(InputError):
        load_yaml(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": ' * 100_000, "100 levels"),
        ('{"a": ' + "[" * 100_000, "100 levels"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "100 levels"),
        ('{"a": ' * 150 + "1" + "}" * 150, "100 levels"),
        ('{"a": ' + "9" * 3000 + "}", "3,000 digits"),
        ('{"a": ' + "9" * 5000 + "}", "5,000 digits"),
        ('{"a": -' + "9" * 5000 + "}", "5,001 digits"),
    ],
    ids=lambda text: text[:24],
)
def test_json_that_other_code_could_not_handle(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        strict_json(text.encode(), "x")


def test_what_libyaml_says_of_a_place_is_said_without_its_name_for_the_text() -> None:
    with pytest.raises(InputError) as error:
        parse_yaml(b"a: [", "x.yaml")
    assert "line 2" in str(error.value)
    assert "byte string" not in str(error.value)

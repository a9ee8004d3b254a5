"""Whatever the text, what is shown is one line that a terminal takes as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.common.printable import MAX_SHOWN, printable, shown

WICKED = ["\x1b[2J", "\x9b2J", "\x1b]0;t\x07", "\u202e", "\u2066", "\u200f", "\x00", "\u2028", "\r"]


@given(st.text(st.characters()))
def test_any_text_is_one_printable_line_that_can_be_encoded(text: str) -> None:
    for line in (printable(text), shown(text)):
        assert line.isprintable()
        assert line.encode().decode() == line
    assert printable(printable(text)) == printable(text)
    assert len(shown(text)) <= MAX_SHOWN + 10


@given(st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" ")))
def test_text_that_can_be_seen_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("wicked", WICKED)
def test_what_a_terminal_obeys_becomes_an_escape(wicked: str) -> None:
    escaped = printable(f"a{wicked}b")
    assert escaped.startswith("a\\") and escaped.endswith("b")
    assert escaped == ascii(f"a{wicked}b")[1:-1]


def test_a_long_message_keeps_its_ends() -> None:
    line = shown("start " + "x" * 10**6 + " end")
    assert line.startswith("start x") and line.endswith("x end") and len(line) < 1100

"""Text that others chose, in Markdown: it renders as itself and as nothing else."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from matformer_lab.common.markdown import escape_markdown, markdown_table

RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
TEXTS = st.text(st.characters())
WICKED = st.lists(
    st.sampled_from(
        [
            *("<b>", "</td>", "<!--", "&lt;", "&#60;", "&", "|", "\\", "\\|", "`", "``", "*", "**"),
            *("_", "~~", "[a](b)", "![a](b)", "[a]", ": ", "<https://a.b>", "\n", "\r", "\x0b"),
            *("\u2028", " ", "# ", "- ", "> ", "1. ", "---", "$x$", "a", "é", "😀", "javascript:"),
            "\n\n| - |\n",
        ]
    )
).map("".join)


def inline(markdown: str) -> list[Token]:
    """Every token inside the blocks."""
    return [child for token in RENDERER.parse(markdown) for child in token.children or ()]


def cells(markdown: str) -> list[str]:
    """What the cells of the only table show; nothing but text may be in them."""
    tokens = RENDERER.parse(markdown)
    assert sum(token.type == "table_open" for token in tokens) == 1
    assert all(child.type == "text" for child in inline(markdown))
    return [token.content and text_of(token) for token in tokens if token.type == "inline"]


def text_of(token: Token) -> str:
    return "".join(child.content for child in token.children or ())


def shown(text: str) -> str:
    """What a reader shall see: one line, invisible characters as escapes."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


@given(st.lists(st.lists(TEXTS | WICKED, min_size=3, max_size=3), max_size=3))
@example([["a\\", "|", "`"], ["[x]: y", "`|`", "\\|"]])
def test_any_text_in_a_cell_stays_one_cell_and_shows_itself(rows: list[list[str]]) -> None:
    table = markdown_table(("one", "two", "three"), rows, ("left", "right", "center"))
    assert len(table.splitlines()) == len(rows) + 2
    assert cells(table) == ["one", "two", "three", *(shown(cell) for row in rows for cell in row)]


@given(TEXTS | WICKED)
def test_escaped_text_in_a_line_shows_itself(text: str) -> None:
    found = inline(f"About {escape_markdown(text)}.")
    assert {token.type for token in found} <= {"text"}
    assert "".join(token.content for token in found) == f"About {shown(text)}."


@pytest.mark.parametrize("address", ["https://a.b/c", "HTTP://a.b", "www.a.b", "ftp://a", "a@b.c"])
def test_githubs_bare_addresses_are_broken_up(address: str) -> None:
    escaped = escape_markdown(f"see {address}")
    assert "\\" in escaped and address not in escaped


def test_columns_are_aligned_as_asked() -> None:
    rule = markdown_table(("a", "b", "c"), [], ("left", "right", "center")).splitlines()[1]
    assert rule == "| --- | ---: | :---: |"
    assert markdown_table(("", "b"), [("1", "")]) == "|  | b |\n| --- | --- |\n| 1 |  |"


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        markdown_table(("a", "b"), [("1",)])

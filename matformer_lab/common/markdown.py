"""Markdown written from text that somebody else chose: names of slices, tasks and models."""

import re
from collections.abc import Sequence
from typing import Final, Literal

from matformer_lab.common.printable import printable

Align = Literal["left", "right", "center"]

_RULES: Final[dict[Align, str]] = {"left": "---", "right": "---:", "center": ":---:"}
_HTML: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# GitHub turns bare https:// and www. addresses into links; a backslash inside prevents it.
_ACTIVE: Final = re.compile(r"[&<>\\`*_\[\]#~|$@]|:(?=//)|(?<=www)\.", re.IGNORECASE)


def escape_markdown(text: str) -> str:
    r"""The text in one line of Markdown (CommonMark or GitHub's) that renders as itself.

    Runs of white space become one space, and what cannot be seen an escape (`printable`). Nothing
    in the text acts as markup, HTML, a link or the border of a table cell.

    Examples:
        >>> print(escape_markdown("mmlu_pro | <b>"))
        mmlu\_pro \| &lt;b&gt;
    """
    line = printable(" ".join(text.split()))
    return _ACTIVE.sub(lambda found: _HTML.get(found[0], f"\\{found[0]}"), line)


def markdown_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], align: Sequence[Align] | None = None
) -> str:
    """A Markdown table whose cells render as the text given, whatever that text is.

    Args:
        head: The columns' titles.
        rows: A cell for each column.
        align: How each column is aligned; None: all to the left.

    Returns:
        One line per row, without a final line break.

    Raises:
        ValueError: When a row or `align` is not as long as `head`.

    Examples:
        >>> print(markdown_table(("slice", "score"), [("e2b", "48.50")], ("left", "right")))
        | slice | score |
        | --- | ---: |
        | e2b | 48.50 |
    """
    sides: Sequence[Align] = ["left" for _ in head] if align is None else align
    if any(len(row) != len(head) for row in (sides, *rows)):
        raise ValueError(f"a row of the table does not have {len(head)} cells")
    escaped = [[escape_markdown(cell) for cell in row] for row in (head, *rows)]
    lines = [escaped[0], [_RULES[side] for side in sides], *escaped[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""The tour in CONTRIBUTING.md names every module, once, by the file's own first sentence."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "matformer_lab"


def test_the_tour_is_the_folder() -> None:
    _, tour = (ROOT / "CONTRIBUTING.md").read_text().split("## The code, in the order of the data")
    named: list[str] = []
    folder = ""
    line = r"^\*\*`([^`]+)`\*\*|^\| `([^`]+)` \| (.*) \|$"
    for heading, module, says in re.findall(line, tour, re.MULTILINE):
        if heading.endswith(".py"):
            named.append(heading)
        elif heading:
            folder = heading
        else:
            named.append(folder + module)
            assert says == first_sentence(PACKAGE / folder / module), module
    there = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    wanted = sorted(name for name in there if not name.endswith("__.py"))
    assert sorted(named) == wanted


def first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(docstring.partition("\n\n")[0].split())

"""docs/architecture.md lists all that the package changes outside of its own objects."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "matformer_lab"
FILES: Final = sorted(PACKAGE.rglob("*.py"))

_CALLS: Final = (
    r"(set_num_threads|set_default_(dtype|device)|umask|redirect_std(out|err)|setLevel|addHandler|"
    r"setLogRecordFactory|disable_progress_bars|signal\.signal|(AttentionInterface|model_registry)"
    r"\.register|(random|torch)\.(manual_)?seed|_dynamo\.config\.patch|os\.environ\.setdefault|"
    r"os\.(putenv|chdir)|environ\.update)"
)
_STATE: Final = (
    r"(\{.*\}|\[.*\]|dict|set|list|ContextVar|WeakKeyDictionary|threading\.local)(\(|\[|$)"
)


def listed() -> str:
    page = (ROOT / "docs/architecture.md").read_text()
    return page.partition("## Process-wide effects and threads")[2]


def foreign(tree: ast.Module) -> set[str]:
    """The names that a file imports from other packages."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("matformer_lab"):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def effects(tree: ast.Module) -> Iterator[str]:
    """What a file changes outside of its own objects, and what its module keeps."""
    others = foreign(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                written = ast.unparse(target)
                root = re.split(r"[.\[]", written)[0]
                if re.search(r"[.\[]", written) and "(" not in written and root in others:
                    yield f"{written} is assigned"
        if isinstance(node, ast.Call) and re.search(rf"{_CALLS}$", ast.unparse(node.func)):
            yield f"{ast.unparse(node.func)} is called"
        if isinstance(node, ast.FunctionDef):
            decorators = map(ast.unparse, node.decorator_list)
            if any(re.match(r"(lru_)?cache\b", one) for one in decorators):
                yield f"{node.name} is cached"
    for statement in tree.body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        name = ast.unparse(targets[0])
        is_constant = re.fullmatch(r"_*[A-Z]\w*|__\w+__", name)
        if not is_constant and re.match(_STATE, ast.unparse(statement.value)):
            yield f"{name} is state of the module"


def test_every_effect_and_all_state_is_listed() -> None:
    page, missing = listed(), []
    for file in FILES:
        name = file.relative_to(PACKAGE).as_posix()
        found = list(effects(ast.parse(file.read_text())))
        if found and f"`{name}`" not in page:
            missing.append(f"{name}: {found[0]}")
    assert not missing


def test_what_is_listed_exists() -> None:
    names = re.findall(r"`(\w[\w/]*/\w+\.py)`", listed())
    assert names
    assert not [n for n in names if not (PACKAGE / n).exists() and not (ROOT / n).exists()]


@pytest.mark.parametrize(
    "code",
    ["import sys\nsys.excepthook = print", "import os\nos.environ['A'] = 'b'", "_kept = {}",
     "from datasets import config\nconfig.HF_HUB_OFFLINE = True", "_kept: list[int] = []",
     "import torch\ndef f():\n  torch.set_num_threads(1)"],
)  # fmt: skip
def test_effects_are_seen(code: str) -> None:
    assert list(effects(ast.parse(code)))

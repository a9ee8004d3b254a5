"""Only gemma3n.py spells the names of tensors inside a Gemma 3n checkpoint."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import matformer_lab
from matformer_lab import gemma3n
from matformer_lab.gemma3n import expected_tensors
from matformer_lab.slicing.builtin_slices import e4b_text_parent

PACKAGE = Path(matformer_lab.__file__).parent

IN_PROSE = {
    # The model card tells its readers which two tables "effective parameters" leave out.
    ("checkpoint/card.py", "embed_tokens"),
    ("checkpoint/card.py", "embed_tokens_per_layer"),
}
"""(module, name): all that other modules may say, as text for people, never to find a tensor."""


def tensor_words() -> set[str]:
    """The parts of tensor names that are no ordinary words: `self_attn`, `k_proj`, `altup`, ..."""
    parts = {part for t in expected_tensors(e4b_text_parent().text) for part in t.name.split(".")}
    return {part for part in parts if "_" in part} | {"altup", "laurel", "lm_head", "layernorm"}


# Also the beginning of a longer name (`altup_projections`), and `layers\.` in a regular expression.
WORDS = re.compile(
    "|".join(rf"(?<![A-Za-z]){word}" for word in sorted(tensor_words(), key=len, reverse=True))
    + r"|\bmlp\b|\blayers\\?\."
)


def strings(tree: ast.AST) -> Iterator[str]:
    """String constants, parts of f-strings included, but for those that stand alone: docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            if isinstance(node.value, str):
                yield node.value
            elif isinstance(node.value, bytes):
                yield node.value.decode("latin-1")


def names_in(source: str) -> set[str]:
    return {found for text in strings(ast.parse(source)) for found in WORDS.findall(text)}


def test_only_gemma3n_spells_tensor_names() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        if path != Path(gemma3n.__file__)
        for name in names_in(path.read_text(encoding="utf-8"))
    }
    assert found == IN_PROSE


def test_names_are_found_where_they_are_spelled() -> None:
    assert names_in(Path(gemma3n.__file__).read_text(encoding="utf-8")) > {
        *("embed_tokens", "embed_tokens_per_layer", "per_layer_model_projection", "lm_head"),
        *("self_attn", "altup", "laurel", "mlp", "layers."),
    }
    assert names_in("x[f'model.layers.{n}.mlp.up_proj.weight']") == {"layers.", "mlp", "up_proj"}
    assert names_in("x.endswith(b'lm_head.weight')") == {"lm_head"}
    assert names_in("def f():\n    'cuts mlp.up_proj'\n    return model.lm_head") == set()
    assert names_in("print('skips 4 layers', 'acc_norm')") == set()

"""A parent that cannot be scored says which file or key is at fault."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from matformer_lab import tiny
from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.tokenizer import load_tokenizer
from matformer_lab.parent.opening import open_parent

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 33384568\n"


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def content(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def annexed(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(".git/annex/objects/x/y/SHA256E-s9--4d/SHA256E-s9--4d")


def no_softcap(folder: Path) -> None:
    """transformers 5.23 takes a number only."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "final_logit_softcapping": None}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("tokenizer.json"), r"there is no tokenizer\.json;"),
        (without("tokenizer_config.json"), r"there is no tokenizer_config\.json;"),
        (
            without("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
            r"there is no tokenizer\.json and no tokenizer_config\.json;",
        ),
        (content("tokenizer.json", POINTER), r"tokenizer\.json: is a Git-LFS pointer"),
        (content("special_tokens_map.json", POINTER), r"tokens_map\.json: is a Git-LFS pointer"),
        (
            content("generation_config.json", POINTER),
            r"generation_config\.json: is a Git-LFS pointer",
        ),
        (annexed, r"tokenizer\.json: is a git-annex link .*`git annex get`"),
        (content("tokenizer.json", ""), r"tokenizer\.json: is empty"),
        (content("tokenizer.json", "{"), r"tokenizer\.json: is not JSON"),
        (content("tokenizer.model", ""), r"tokenizer\.model: is empty"),
        (content("tokenizer_config.json", ""), r"tokenizer_config\.json: is empty"),
        (no_softcap, r"config\.json: transformers [\d.]+ refuses it .*final_logit_softcapping"),
    ],
)
def test_what_is_missing_is_named(
    change: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny.model_dir(), tmp_path / "p"))
    change(folder)
    with pytest.raises(InputError, match=says) as caught:
        load_tokenizer(open_parent(folder))
    assert "\n" not in str(caught.value)

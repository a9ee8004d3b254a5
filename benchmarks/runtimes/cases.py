"""The checkpoints that runtimes are tried on: slices of a random parent with E4B's 35 layers."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matformer_lab as ml
from tests.support.pico import E4B_IN_MINIATURE, write_parent
from tests.support.saved import saved_by_transformers_5

TOKENS: Final = [5, 17, 80, 41, 33, 9, 64, 12, 71, 28, 50, 3, 88, 19, 6, 47, 22, 90, 15, 60]
"""Longer than the sliding window of 8."""

PARENT: Final[dict[str, Any]] = {
    **E4B_IN_MINIATURE,
    "hidden_size_per_layer_input": 256,
    "laurel_rank": 64,
}
"""llama.cpp knows only E4B's own 256 per-layer inputs and rank of 64."""


@dataclass(frozen=True)
class Case:
    """A checkpoint to run.

    Attributes:
        name: Names it in the results.
        slice: The slice, as `resolve_slices` takes it.
        text_only: Whether it is a `gemma3n_text` folder.
        tuned: Whether the parent is a fine-tune that transformers 5 saved.
        as_is: Whether nothing is filled in.
        edit: What is done to its config.json after that.
    """

    name: str
    slice: Any
    text_only: bool = False
    tuned: bool = False
    as_is: bool = False
    edit: Callable[[dict[str, Any]], object] | None = None


def _without_layer_types(config: dict[str, Any]) -> None:
    config["text_config"].pop("layer_types")


def _skip(name: str, layers: list[int], width: str = "1/2") -> dict[str, Any]:
    return {"name": name, "widths": width, "skip": layers}


CASES: Final = (
    Case("full", "full"),
    Case("e2b", "e2b"),
    Case("e2b, text-only", "e2b", text_only=True),
    Case("mixed widths", "e2.98b-layer"),
    Case("layers 5-9 skipped", _skip("block", [5, 6, 7, 8, 9])),
    Case("layer 12 skipped", _skip("one", [12])),
    Case("saved by transformers 5, as it is", "e2b", tuned=True, as_is=True),
    Case("saved by transformers 5, filled in", "e2b", tuned=True),
    Case("without layer_types", "full", edit=_without_layer_types),
)


def write_cases(work: Path) -> dict[str, Path]:
    """Write the parent and every case's checkpoint into `work`; the folders by the case's name."""
    base, tuned = work / "parent", work / "tuned"
    if not base.exists():
        write_parent(base, config=PARENT, dtype="float32", multimodal=True, scale=0.1)
        _write_tokenizer(base)
    if not tuned.exists():
        saved_by_transformers_5(base, tuned)
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(base / name, tuned / name)
    folders = {}
    for number, case in enumerate(CASES):
        folder = folders[case.name] = work / f"case-{number}"
        if folder.exists():
            continue
        parent = ml.open_parent(tuned if case.tuned else base)
        ml.write_slices(
            parent,
            [case.slice],
            folder,
            text_only=case.text_only,
            as_is=case.as_is,
            progress=False,
        )
        if case.edit:
            config = json.loads((folder / "config.json").read_text())
            case.edit(config)
            (folder / "config.json").write_text(json.dumps(config))
    return folders


def _write_tokenizer(folder: Path) -> None:
    """A SentencePiece model of as many pieces as the parent has, for llama.cpp's converter."""
    import sentencepiece

    from matformer_lab import tiny

    sentencepiece.SentencePieceTrainer.train(
        input=str(Path(tiny.__file__).parent / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=PARENT["vocab_size"],
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GemmaTokenizer"}))

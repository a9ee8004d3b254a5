"""A few made-up items in the real formats of datasets, for lm-eval's own tasks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Item = Mapping[str, Any]


def write_gsm8k(folder: Path, answers: Sequence[str]) -> Path:
    """Write `folder/openai/gsm8k`, with as many test items as `answers`; returns `folder`."""

    def item(number: int, answer: str) -> Item:
        total = f"<<{number}+{number + 1}={answer}>>{answer}"
        return {
            "question": f"Ann has {number} cats and {number + 1} dogs. How many are there?",
            "answer": f"There are {total} of them.\n#### {answer}",
        }

    train = [item(number, str(2 * number + 1)) for number in range(1, 9)]
    test = [item(50 + number, answer) for number, answer in enumerate(answers)]
    _write(folder / "openai" / "gsm8k", "main", {"train": train, "test": test})
    return folder


def write_trivia_qa(folder: Path, answers: Sequence[str]) -> Path:
    """Write `folder/mandarjoshi/trivia_qa`, with as many items as `answers`; returns `folder`."""

    def item(number: int, answer: str) -> Item:
        return {
            "question": f"Which town has {number} bridges",
            "question_id": f"tc_{number}",
            "question_source": "http://www.triviacountry.com/",
            "answer": {
                "aliases": [answer, f"{answer} town"],
                "normalized_aliases": [answer.lower(), f"{answer} town".lower()],
                "matched_wiki_entity_name": "",
                "normalized_matched_wiki_entity_name": "",
                "normalized_value": answer.lower(),
                "type": "WikipediaEntity",
                "value": answer,
            },
        }

    train = [item(number, f"Town {number}") for number in range(8)]
    test = [item(50 + number, answer) for number, answer in enumerate(answers)]
    target = folder / "mandarjoshi" / "trivia_qa"
    _write(target, "rc.nocontext", {"train": train, "validation": test})
    return folder


def write_wikitext(folder: Path, pages: Sequence[str]) -> Path:
    """Write `folder/EleutherAI/wikitext_document_level` with these pages; returns `folder`."""
    items = [{"page": page} for page in pages]
    target = folder / "EleutherAI" / "wikitext_document_level"
    splits = {"train": items[:1], "validation": items[:1], "test": items}
    _write(target, "wikitext-2-raw-v1", splits)
    return folder


def _write(folder: Path, config: str, splits: Mapping[str, Sequence[Item]]) -> None:
    import pandas as pd

    (folder / config).mkdir(parents=True)
    lines = [f"  - split: {name}\n    path: {config}/{name}-*" for name in splits]
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n" + "\n".join(lines) + "\n---\n"
    )
    for name, items in splits.items():
        file = folder / config / f"{name}-00000-of-00001.parquet"
        pd.DataFrame(list(items)).to_parquet(file)

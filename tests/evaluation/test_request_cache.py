"""Encoded requests kept for the next run, and never believed where anything differs."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from matformer_lab.evaluation import request_cache
from matformer_lab.evaluation.request_cache import encoded_requests
from matformer_lab.evaluation.tokenizer import load_tokenizer
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring.batches.packing import Request


class Encoder:
    """Stands in for the scorer: characters for tokens, and a count of how often it was asked."""

    def __init__(self, **changes: Any) -> None:
        self.tokenizer = changes.pop("tokenizer", load_tokenizer(open_parent("tiny")))
        self.prefix_token_id, self.add_bos_token, self.max_length = 2, True, 100
        self.calls = 0
        vars(self).update(changes)

    def encode(self, instances: list[Instance]) -> list[Request]:
        self.calls += 1
        return [
            Request.of([2, *map(ord, one.args[0])], [*map(ord, one.args[1])], self.max_length)
            for one in instances
        ]


def instances(*pairs: tuple[str, str]) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]


PAIRS = [("A cat sat on", " a mat"), ("A cat sat on", " the mat"), ("Dogs", " bark"), ("", "x")]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("MATFORMER_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(request_cache, "_LEAST_CHARS", 0)
    yield tmp_path / "requests"


def again(pairs: list[tuple[str, str]] = PAIRS, **changes: Any) -> int:
    """How often the texts had to be encoded; what comes back is checked."""
    lm: Any = Encoder(**changes)
    assert encoded_requests(instances(*pairs), lm) == Encoder(**changes).encode(instances(*pairs))
    return int(lm.calls)


def test_the_second_run_encodes_nothing(cache: Path) -> None:
    assert (again(), again()) == (1, 0)
    assert len(list(cache.iterdir())) == 1


def test_small_tasks_leave_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_cache, "_LEAST_CHARS", 1000)
    assert (again(), again()) == (1, 1)
    assert not cache.exists()


@pytest.mark.parametrize(
    "pairs",
    [
        [*PAIRS, ("Dogs", " bark")],
        PAIRS[:-1],
        PAIRS[::-1],
        [("A cat sat on ", "a mat"), *PAIRS[1:]],  # the same text, divided elsewhere
    ],
)
def test_other_texts_are_another_entry(pairs: list[tuple[str, str]]) -> None:
    again()
    assert again(pairs) == 1


@pytest.mark.parametrize(
    "changes", [{"max_length": 99}, {"prefix_token_id": 3}, {"add_bos_token": False}]
)
def test_another_use_of_the_tokenizer_is_another_entry(changes: dict[str, Any]) -> None:
    again()
    assert again(**changes) == 1


def test_another_tokenizer_is_another_entry() -> None:
    again()
    other = load_tokenizer(open_parent("tiny"))
    other.add_tokens(["mat"])
    assert again(tokenizer=other) == 1


def test_special_tokens_that_are_split_are_another_entry() -> None:
    """Of which the tokenizer's own file says nothing."""
    again()
    other = load_tokenizer(open_parent("tiny"))
    other.split_special_tokens = True
    assert again(tokenizer=other) == 1


def test_what_a_tokenizer_in_python_encodes_is_not_kept(cache: Path) -> None:
    in_python = SimpleNamespace(special_tokens_map={})
    assert (again(tokenizer=in_python), again(tokenizer=in_python)) == (1, 1)
    assert not cache.exists()


def test_other_libraries_are_another_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    again()
    monkeypatch.setattr("tokenizers.__version__", "0.0")
    assert again() == 1


def damage(data: bytes) -> Iterator[bytes]:
    yield b""
    yield data[:-1]
    yield data + b"x"
    yield b"matformer_lab requests 0\n" + data[25:]
    for place in (0, 30, 70, len(data) // 2, len(data) - 1):
        yield data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_a_damaged_entry_is_made_again(cache: Path) -> None:
    again()
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    for damaged in damage(whole):
        entry.write_bytes(damaged)
        assert (again(), again()) == (1, 0)
        assert entry.read_bytes() == whole


def test_an_entry_of_other_texts_is_not_believed(cache: Path) -> None:
    again()
    (mine,) = cache.iterdir()
    again(PAIRS[:2])
    (other,) = set(cache.iterdir()) - {mine}
    other.replace(mine)
    assert again() == 1


def test_what_is_in_the_way_or_read_only_does_not_matter(cache: Path) -> None:
    cache.write_text("a file in the place of the folder")
    assert (again(), again()) == (1, 1)


def test_the_oldest_entries_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again()
    (first,) = cache.iterdir()
    size = first.stat().st_size
    monkeypatch.setattr(request_cache, "_MOST_BYTES", size + 10)
    assert again(PAIRS[:1]) == 1
    assert not first.exists()
    assert again(PAIRS[:1]) == 0


def test_no_requests_at_all() -> None:
    assert encoded_requests([], SimpleNamespace(encode=lambda _: [], **vars(Encoder()))) == []  # type: ignore[arg-type]

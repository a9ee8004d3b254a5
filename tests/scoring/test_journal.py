"""A pass that is killed and continued: the same bytes, whatever became of its journal."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3nForCausalLM

from matformer_lab.common.errors import InputError
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.scoring import journal as journal_module
from matformer_lab.scoring import slice_scoring
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.journal import FileJournal, is_journal
from matformer_lab.scoring.slice_scoring import Answer, score_slices

BUDGET = TokenBudget(24, 24)
NAMES = ("1/2", "e4b")
BINDING = {"keys": ["a", "b"]}


class Stop(Exception):  # noqa: N818 (stands for a kill)
    pass


@pytest.fixture(scope="module")
def models(pico: Path) -> dict[str, Gemma3nForCausalLM]:
    parent = ElasticParent.load(pico, dtype="float32")
    return {"1/2": parent.live("1/2"), "e4b": parent.live("full")}


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    generator = torch.Generator().manual_seed(3)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 96, (count,), generator=generator).tolist()

    return [Request.of([2, *ids(6 + n % 7)], ids(1 + n % 3), 256) for n in range(14)]


@pytest.fixture(scope="module")
def undisturbed(
    models: dict[str, Gemma3nForCausalLM], requests: list[Request]
) -> dict[str, list[Answer]]:
    return score_slices(models, requests, budget=BUDGET)


@pytest.fixture(autouse=True)
def every_batch_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_SECONDS_BETWEEN_WRITES", -1.0)


def journal(path: Path, binding: Mapping[str, Any] = BINDING) -> FileJournal:
    return FileJournal(path, NAMES, binding)


class Batches:
    """Counts the batches that are computed; `stop` ends the run before that one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.stop: int | None = None
        self.error: type[BaseException] = Stop
        compute = slice_scoring.score_batch

        def counted(*args: Any) -> Any:
            if self.count == self.stop:
                self.stop = None
                raise self.error
            self.count += 1
            return compute(*args)

        monkeypatch.setattr(slice_scoring, "score_batch", counted)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    return Batches(monkeypatch)


def interrupted(
    models: dict[str, Gemma3nForCausalLM],
    requests: list[Request],
    path: Path,
    batches: Batches,
    at: int,
) -> None:
    batches.count, batches.stop = 0, at
    with pytest.raises(Stop):
        score_slices(models, requests, budget=BUDGET, journal=journal(path))
    batches.count = 0


def test_stopped_before_every_batch_it_continues_there(
    models: dict[str, Gemma3nForCausalLM],
    requests: list[Request],
    undisturbed: dict[str, list[Answer]],
    batches: Batches,
    tmp_path: Path,
) -> None:
    score_slices(models, requests, budget=BUDGET)
    count = batches.count
    assert count >= 4
    for at in range(count):
        path = tmp_path / f"{at}.journal"
        interrupted(models, requests, path, batches, at)
        # What free memory would suggest now does not matter: the batches stay as they were.
        again = score_slices(models, requests, budget=TokenBudget(4096), journal=journal(path))
        assert again == undisturbed
        assert batches.count == count - at


def test_halvings_are_kept(
    models: dict[str, Gemma3nForCausalLM],
    requests: list[Request],
    batches: Batches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slice_scoring, "FEWEST_TOKENS", 8)
    batches.stop, batches.error = 1, torch.OutOfMemoryError
    wanted = score_slices(models, requests, budget=BUDGET)
    whole = batches.count

    path = tmp_path / "pass.journal"
    compute = slice_scoring.score_batch
    calls = 0

    def short_of_memory_then_killed(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError
        if calls == 5:
            raise Stop
        return compute(*args)

    monkeypatch.setattr(slice_scoring, "score_batch", short_of_memory_then_killed)
    with pytest.raises(Stop):
        score_slices(models, requests, budget=BUDGET, journal=journal(path))
    monkeypatch.setattr(slice_scoring, "score_batch", compute)
    batches.count = 0
    assert score_slices(models, requests, budget=BUDGET, journal=journal(path)) == wanted
    assert batches.count == whole - 3


@pytest.mark.parametrize("damage", ["cut short", "a flipped bit", "another pass", "no journal"])
def test_what_cannot_be_used_is_computed_again(
    models: dict[str, Gemma3nForCausalLM],
    requests: list[Request],
    undisturbed: dict[str, list[Answer]],
    batches: Batches,
    tmp_path: Path,
    damage: str,
) -> None:
    path = tmp_path / "pass.journal"
    interrupted(models, requests, path, batches, 3)
    whole = path.read_bytes()
    for position in range(0, len(whole), 97):
        data = bytearray(whole)
        if damage == "cut short":
            del data[position:]
        elif damage == "a flipped bit":
            data[position] ^= 1 << position % 8
        elif damage == "no journal":
            data = bytearray(b"mine")
        path.write_bytes(data)
        binding = {"keys": ["another"]} if damage == "another pass" else BINDING
        found = journal(path, binding)
        budget = found.begin(BUDGET)
        assert budget == BUDGET
        recorded = list(found.recorded())
        intact = damage == "cut short" and position == len(whole)
        assert len(recorded) <= (3 if intact else 2)
        if damage in ("another pass", "no journal"):
            assert not recorded
    path.write_bytes(bytes(whole[: len(whole) // 2]))
    assert score_slices(models, requests, budget=BUDGET, journal=journal(path)) == undisturbed
    assert is_journal(path)


def test_a_full_disk_is_one_line(
    models: dict[str, Gemma3nForCausalLM], requests: list[Request], tmp_path: Path
) -> None:
    path = tmp_path / "pass.journal"
    path.symlink_to("/dev/full")
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(InputError, match=r"not a regular file|cannot be written"):
        score_slices(models, requests, budget=BUDGET, journal=journal(path))
    path.unlink()
    shutil.rmtree(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        score_slices(models, requests, budget=BUDGET, journal=journal(path))


def test_progress_moves_inside_a_batch_and_ends_at_the_end(
    models: dict[str, Gemma3nForCausalLM], requests: list[Request]
) -> None:
    seen: list[float] = []
    score_slices(
        models,
        requests,
        budget=TokenBudget(4096),
        progress=lambda done, count: seen.append(done / count),
    )
    assert len(seen) > 10 and seen == sorted(seen)
    assert seen[0] < 0.2 and seen[-1] == 1.0

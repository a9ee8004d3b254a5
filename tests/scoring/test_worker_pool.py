"""Worker processes score a pass's batches: the same bits, and none is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from matformer_lab.common.errors import InputError
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.scoring import journal as journal_module
from matformer_lab.scoring import slice_scoring
from matformer_lab.scoring.batches.packing import Batch, Request
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.journal import FileJournal, Journal
from matformer_lab.scoring.processes import pooled_scoring
from matformer_lab.scoring.processes.pooled_scoring import PooledScoring
from matformer_lab.scoring.processes.worker_pool import WorkerPool
from matformer_lab.scoring.processes.worker_process import Opening
from matformer_lab.scoring.slice_scoring import score_slices
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.slice import Slice

BUDGET = TokenBudget(24, 24)


@pytest.fixture(scope="module")
def elastic(pico: Path) -> ElasticParent:
    return ElasticParent.load(pico, dtype="float32")


@pytest.fixture(scope="module")
def slices(elastic: ElasticParent) -> dict[str, Slice]:
    return {name: resolve_slice(name, elastic.parent) for name in ("1/2", "full", "1/4")}


@pytest.fixture(scope="module")
def pool(elastic: ElasticParent, slices: dict[str, Slice]) -> Iterator[WorkerPool]:
    with WorkerPool(opening(elastic, slices), 2) as workers:
        yield workers


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (slice_scoring, pooled_scoring):
        monkeypatch.setattr(module, "budget_for", lambda *_, **__: BUDGET)
    monkeypatch.setattr(journal_module, "_SECONDS_BETWEEN_WRITES", -1.0)


def opening(elastic: ElasticParent, slices: Mapping[str, Slice]) -> Opening:
    return Opening(elastic.parent, tuple(slices.values()), "float32", threads=1)


def requests(seed: int) -> list[Request]:
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 96, (count,), generator=generator).tolist()

    return [Request.of([2, *ids(6 + n % 7)], ids(1 + n % 3), 256) for n in range(14)]


def scoring(
    pool: WorkerPool,
    elastic: ElasticParent,
    slices: Mapping[str, Slice],
    asked: list[Request],
    journal: Journal | None = None,
) -> PooledScoring:
    return PooledScoring(pool, slices, elastic.live("full"), asked, journal)


def broken_packing(_: int) -> Batch:
    raise ZeroDivisionError


def gone(pid: int) -> bool:
    """Whether a process has ended, though nobody may have asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def soon_gone(pid: int, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return gone(pid)


@pytest.mark.slow
def test_passes_begun_together_give_the_bits_of_one_process(
    pool: WorkerPool, elastic: ElasticParent, slices: dict[str, Slice], tmp_path: Path
) -> None:
    two = {name: slices[name] for name in ("1/2", "full")}
    one = {"1/4": slices["1/4"]}
    shares: list[float] = []
    file = FileJournal(tmp_path / "pass.journal", tuple(two), {})
    first = scoring(pool, elastic, two, requests(3), file)
    second = scoring(pool, elastic, one, requests(4))
    answers = first.answers(lambda done, count: shares.append(done / count))
    assert answers == score_slices(elastic.live_together(two), requests(3))
    assert second.answers() == score_slices(elastic.live_together(one), requests(4))
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) > 3
    assert first.seconds > 0

    # The journal is that of one process, and so continued with any number of them.
    alone = FileJournal(tmp_path / "alone.journal", tuple(two), {})
    score_slices(elastic.live_together(two), requests(3), journal=alone)
    whole = (tmp_path / "alone.journal").read_bytes()
    assert (tmp_path / "pass.journal").read_bytes() == whole
    (tmp_path / "half.journal").write_bytes(whole[: len(whole) // 2])
    half = FileJournal(tmp_path / "half.journal", tuple(two), {})
    assert scoring(pool, elastic, two, requests(3), half).answers() == answers
    assert (tmp_path / "half.journal").read_bytes() == whole


def test_what_goes_wrong_in_a_worker_or_in_packing_is_raised_here(
    pool: WorkerPool, elastic: ElasticParent, slices: dict[str, Slice]
) -> None:
    bad = replace(slices["1/2"], widths=(10**6,) * 10)
    with pytest.raises(InputError, match="1000000"):
        scoring(pool, elastic, {"bad": bad}, requests(3)).answers()
    with pytest.raises(ZeroDivisionError):
        list(pool.start(slices, iter(map(broken_packing, range(1)))))
    one = {"1/4": slices["1/4"]}
    again = scoring(pool, elastic, one, requests(4)).answers()
    assert again == score_slices(elastic.live_together(one), requests(4))


def test_a_killed_worker_is_named_what_came_before_is_kept_and_none_is_left_behind(
    elastic: ElasticParent, slices: dict[str, Slice], tmp_path: Path
) -> None:
    path = tmp_path / "pass.journal"
    with WorkerPool(opening(elastic, slices), 2) as pool:
        killed, other = pool.pids
        begun = scoring(pool, elastic, slices, requests(3), FileJournal(path, [*slices], {}))

        def kill(done: float, count: int) -> None:
            with suppress(ProcessLookupError):
                os.kill(killed, signal.SIGKILL)

        with pytest.raises(InputError, match=rf"worker process {killed} was killed \(SIGKILL\)"):
            begun.answers(kill)
            for seed in range(5, 9):  # all of the first pass's batches may have been under way
                scoring(pool, elastic, slices, requests(seed)).answers()
        assert gone(killed) and not gone(other)
        # What is left of the pool's process when it is killed: nobody else holds the connection.
        pool._workers[1].connection.close()
        assert soon_gone(other)
    journal = FileJournal(path, [*slices], {})
    journal.begin(BUDGET)
    assert next(journal.recorded())


@pytest.mark.slow  # two more processes with PyTorch; the end of the test above is its cheap twin
def test_no_worker_outlives_a_process_that_is_killed(
    pico: Path, elastic: ElasticParent, slices: dict[str, Slice]
) -> None:
    program = (
        "import sys, time\n"
        "from tests.scoring.test_worker_pool import *\n"
        "elastic = ElasticParent.load(sys.argv[1], dtype='float32')\n"
        "slices = {'1/2': resolve_slice('1/2', elastic.parent)}\n"
        "pool = WorkerPool(opening(elastic, slices), 1)\n"
        "scoring(pool, elastic, slices, requests(3)).answers()\n"
        "print(*pool.pids, flush=True)\n"
        "time.sleep(600)\n"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(pico)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    try:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert not gone(pid)
    finally:
        process.kill()
        process.wait()
    assert soon_gone(pid)

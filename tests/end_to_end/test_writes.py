"""Every write of the tool, broken off, failed and cut from power at every file operation.

Before and after there is no result, the old one, or the new one, whole; running again finishes with
the same bytes. The kills are simulated in this process (`tests/support/file_operations.py`); a few
real ones are in `test_unbreakable.py` and `tests/sweep/test_sweep.py`.
"""

import errno
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from matformer_lab.checkpoint.family import add_to_family, write_family
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.gate.baseline import load_baseline
from matformer_lab.gate.run import run_gate
from matformer_lab.parent.opening import open_parent
from matformer_lab.report import write as report_writer
from matformer_lab.report.write import write_report
from matformer_lab.results.files import REPORT_FILES, STORE
from matformer_lab.results.read import read_sweep
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import Plan, make_plan
from matformer_lab.sweep import run as sweep_runner
from matformer_lab.sweep.executors.base import Scored, ShowShare
from matformer_lab.sweep.executors.local import LocalExecutor
from matformer_lab.sweep.jobs import Job, Prepared
from matformer_lab.sweep.recipe import Recipe, parse_recipe
from matformer_lab.sweep.run import run_sweep
from matformer_lab.sweep.scores import provenance
from matformer_lab.sweep.scores.store import Store
from tests.end_to_end.test_unbreakable import MEMORY, mounted, posix
from tests.support.file_operations import count_operations, fail_at, kill_at, record, watched
from tests.support.kill_loop import contents
from tests.support.power_cut import Disk, lay_out, power_cuts
from tests.support.synthetic import SLICES, write_sweep

Contents = dict[str, str]
FEW = 8
"""Operations at which something happens, unless slow tests are run."""


@dataclass(frozen=True)
class Writer:
    """Something that writes into a folder.

    Attributes:
        before: The folder before.
        work: Does it; may be called again.
        result: What a user finds there: the files that count, if they are taken for a result.
        each: Whether its files are whole one by one, rather than together.
    """

    before: Path
    work: Callable[[Path], object]
    result: Callable[[Path], Contents]
    each: bool = False

    def new(self, scratch: Path) -> Contents:
        """What it writes when nothing happens."""
        with self.start(scratch) as root:
            self.work(root)
            return self.result(root)

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Path]:
        """A copy of the folder."""
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            yield Path(shutil.copytree(self.before, Path(folder) / "root"))

    def check(self, found: Contents, new: Contents, what: str) -> None:
        """Assert that it is the old result, the new one, or none."""
        old = self.result(self.before)
        if self.each:
            for name, digest in found.items():
                assert digest in (old.get(name), new.get(name)), (what, name)
        else:
            near = min((old, new), key=lambda known: len(found.items() ^ known.items()))
            assert not found or found == near, (what, sorted(found.items() ^ near.items()))


# --- the writers --------------------------------------------------------------------------------


def plans(parent: Path, *slices: str) -> list[Plan]:
    opened = open_parent(parent)
    return [make_plan(opened, slice_) for slice_ in resolve_slices(slices, opened)]


def checkpoint(name: str) -> Callable[[Path], Contents]:
    return lambda root: contents(root / name) if (root / name).exists() else {}


def slice_writer(pico: Path, before: Path) -> Writer:
    (plan,) = plans(pico, "1/2")
    return Writer(
        before,
        lambda root: write_checkpoint(plan, root / "child", max_shard_size=60_000, threads=1),
        checkpoint("child"),
    )


def family_writer(pico: Path, before: Path) -> Writer:
    two = plans(pico, "1/2", "1/4")
    return Writer(
        before, lambda root: write_family(two, root / "child", threads=1), checkpoint("child")
    )


def adding_writer(pico: Path, before: Path) -> Writer:
    write_family(plans(pico, "1/2", "1/4"), before / "family")
    (third,) = plans(pico, "3/4")

    def add(root: Path) -> None:
        try:
            add_to_family([third], root / "family", threads=1)
        except InputError as error:
            if "has all of these slices" not in str(error):
                raise

    def whole(root: Path) -> Contents:
        assert (root / "family" / "uniform-1-2").is_dir()
        return checkpoint("family")(root) if (root / "family" / "uniform-3-4").exists() else {}

    def result(root: Path) -> Contents:
        found = whole(root)
        return {name: digest for name, digest in found.items() if ".partial/" not in name}

    return Writer(before, add, result)


class Recorded(LocalExecutor):
    """Scores that were computed once."""

    def __init__(self) -> None:
        super().__init__(workers=1)
        self.known: dict[str, Scored] = {}

    def fetched(self, prepared: Prepared) -> Prepared:
        return prepared

    def scores(
        self,
        prepared: Prepared,
        pending: Sequence[Job],
        show_share: ShowShare,
        journals: Path | None = None,
    ) -> Generator[Scored]:
        new = [job for job in pending if job.key.digest not in self.known]
        if new:
            for scored in super().scores(prepared, new, show_share):
                self.known[scored.key.digest] = scored
        for job in pending:
            yield self.known[job.key.digest]


def keep_what_stays_the_same(patch: pytest.MonkeyPatch) -> None:
    """What a sweep prepares, and the pictures of a report, are computed once; the time stands."""
    for module, name in (
        (sweep_runner, "prepare"),
        (report_writer, "figure_files"),
        (report_writer, "render"),
    ):
        patch.setattr(module, name, _once(getattr(module, name)))
    patch.setattr(provenance, "now", lambda: "2026-11-28T00:00:00+00:00")


def _once(compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute`, once for each first argument, known by what it says."""
    known: dict[str, Any] = {}

    def kept(first: Any, **named: Any) -> Any:
        if isinstance(first, Recipe):
            key = first.model_dump_json()
        else:
            key = repr([(task.name, task.slices, task.values) for task in first.tasks])
        if key not in known:
            known[key] = compute(first, **named)
        return known[key]

    return kept


@pytest.fixture(scope="module")
def executor() -> Iterator[Recorded]:
    with pytest.MonkeyPatch.context() as patch:
        keep_what_stays_the_same(patch)
        yield Recorded()


def sweep_result(root: Path) -> Contents:
    """A finished sweep's files, once its reader accepts them; every stored score must be whole."""
    out = root / "out"
    list(Store(out / STORE).entries())
    try:
        read_sweep(out)
    except InputError:
        return {}
    names = ("results.csv", "results.parquet", "slices.json", "recipe.yaml", "samples")
    return {
        name: digest
        for name, digest in contents(out).items()
        if name.split("/")[0] in names and not name.endswith(".tmp")
    }


def sweep_recipe(parent: Path, **changes: Any) -> Recipe:
    asked = {
        "parent": str(parent),
        "slices": ["1/2", "1/4"],
        "tasks": ["tiny_boolq"],
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 4,
        "limit": 2,
    }
    return parse_recipe({**asked, **changes})


def sweep_writer(parent: Path, executor: Recorded, before: Path, old: bool) -> Writer:
    def work(root: Path, asked: Recipe) -> None:
        run_sweep(asked, root / "out", executor=executor, report=False)

    wanted = sweep_recipe(parent)
    if old:
        work(before, wanted)
        wanted = sweep_recipe(parent, slices=["1/2", "1/8"], limit=3)
    return Writer(before, lambda root: work(root, wanted), sweep_result)


def files(*names: str) -> Callable[[Path], Contents]:
    def result(root: Path) -> Contents:
        return {name: digest for name, digest in contents(root).items() if name in names}

    return result


def report_writer_of(before: Path, other: Path) -> Writer:
    """A new report over the old one of another sweep, as after its tables were replaced."""
    write_sweep(before / "out", slices=SLICES[:3], scale=0.05)
    return Writer(
        before,
        lambda root: write_report(root / "out"),
        files(*(f"out/{name}" for name in REPORT_FILES)),
        each=True,
    )


def gate_writer(before: Path, other: Path) -> Writer:
    write_sweep(before / "out", slices=SLICES[:3], scale=0.05)
    run_gate(
        write_sweep(other / "old", slices=SLICES[:2], scale=0.05), before / "b.yaml", update=True
    )

    def result(root: Path) -> Contents:
        load_baseline(root / "b.yaml")
        return files("b.yaml", "b.md", "b.xml")(root)

    return Writer(
        before,
        lambda root: run_gate(
            root / "out", root / "b.yaml", update=True, markdown=root / "b.md", junit=root / "b.xml"
        ),
        result,
        each=True,
    )


KINDS = ("slice", "family", "adding", "sweep", "sweep over an old one", "report", "gate --update")


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(scope="module", params=KINDS)
def writer(
    request: pytest.FixtureRequest, scratch: Path, pico: Path, scorable: Path, executor: Recorded
) -> Iterator[Writer]:
    before, other = scratch / "before", scratch / "other"
    before.mkdir()
    other.mkdir()
    match request.param:
        case "slice":
            yield slice_writer(pico, before)
        case "family":
            yield family_writer(pico, before)
        case "adding":
            yield adding_writer(pico, before)
        case "report":
            yield report_writer_of(before, other)
        case "gate --update":
            yield gate_writer(before, other)
        case name:
            yield sweep_writer(scorable, executor, before, old=name != "sweep")
    shutil.rmtree(before)
    shutil.rmtree(other)


@pytest.fixture(scope="module")
def new(writer: Writer, scratch: Path) -> Contents:
    found = writer.new(scratch)
    assert found and found != writer.result(writer.before)
    return found


def finished(writer: Writer, root: Path, new: Contents, what: str) -> None:
    """Running again finishes with the same bytes."""
    whole = writer.result(root) == new
    try:
        writer.work(root)
    except InputError as error:
        assert whole and "already exists" in str(error), what
    assert writer.result(root) == new, what
    assert not list(root.rglob("*.partial")), what


@pytest.fixture
def some(request: pytest.FixtureRequest) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """All of them where slow tests are run, else a few that are spread over all, with the last."""
    if request.config.getoption("--slow"):
        return lambda found: found
    return lambda found: [found[-1 - n * len(found) // FEW] for n in range(min(FEW, len(found)))]


# --- what happens to them -----------------------------------------------------------------------


Some = Callable[[Sequence[Any]], Sequence[Any]]


@pytest.fixture(scope="module")
def steps(writer: Writer, scratch: Path) -> range:
    with writer.start(scratch) as root:
        return range(count_operations(root, lambda: writer.work(root)))


def test_a_kill_at_every_operation(
    writer: Writer, new: Contents, steps: range, some: Some, scratch: Path
) -> None:
    assert len(steps) > 5
    for step in some(steps):
        with writer.start(scratch) as root:
            what = f"killed at operation {step}"
            assert kill_at(root, step, partial(writer.work, root)), what
            writer.check(writer.result(root), new, what)
            finished(writer, root, new, what)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_every_operation(
    error: int, writer: Writer, new: Contents, steps: range, some: Some, scratch: Path
) -> None:
    """One line that says so, or it did no harm."""
    for step in some(steps):
        with writer.start(scratch) as root:
            what = f"{errno.errorcode[error]} at operation {step}"
            try:
                fail_at(root, step, error, partial(writer.work, root))
            except InputError as refused:
                assert "cannot be written" in str(refused), what
            except OSError as raised:
                pytest.fail(f"{what}: {raised!r}")
            writer.check(writer.result(root), new, what)
            finished(writer, root, new, what)


def test_a_power_cut_after_every_operation(
    writer: Writer, new: Contents, some: Some, scratch: Path
) -> None:
    with writer.start(scratch) as root:
        disk = Disk(root)
        operations = record(root, lambda: writer.work(root))
    for what, left in some(list(power_cuts(disk, operations))):
        with laid_out(left, scratch) as root:
            writer.check(writer.result(root), new, what)
            finished(writer, root, new, what)
    with laid_out(disk.after(lambda change: False), scratch) as root:
        assert writer.result(root) == new, "what was finished is not durable"


@posix
def test_real_kills(writer: Writer, new: Contents, steps: range, scratch: Path) -> None:
    """SIGKILL, three times in a row in one folder: the simulated kills are like this one."""
    with writer.start(scratch) as root:
        for third in (1, 2, 3):
            step = third * len(steps) // 4
            pid = os.fork()
            if not pid:
                with suppress(BaseException), watched(root, partial(_die_at, step)):
                    writer.work(root)
                os._exit(0)
            os.waitpid(pid, 0)
            writer.check(writer.result(root), new, f"killed at {step}")
        finished(writer, root, new, "killed three times")


def _die_at(step: int, number: int, name: str) -> None:
    if number == step:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("writer", ["sweep", "gate --update"], indirect=True)
def test_a_disk_that_is_really_full(writer: Writer, new: Contents, tmp_path: Path) -> None:
    """Room for next to nothing, for something, for nearly all of it; then for the rest."""
    with mounted(tmp_path / "small", "size=16m") as disk:
        root = Path(shutil.copytree(writer.before, disk / "root"))
        used = shutil.disk_usage(disk).used
        resize = partial(subprocess.run, check=True)
        refused = 0
        for kib in (4, 8, 12, 28, 60, 124):  # a size of 0 is no limit
            resize(["mount", "-o", f"remount,size={used + kib * 1024}", str(disk)])
            try:
                writer.work(root)
            except InputError as error:
                assert "No space left on device" in str(error)
                refused += 1
            resize(["mount", "-o", "remount,size=16m", str(disk)])
            writer.check(writer.result(root), new, f"{kib} KiB")
        assert refused
        finished(writer, root, new, "room was made")


@contextmanager
def laid_out(files: Mapping[str, bytes | None], scratch: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        root = Path(folder) / "root"
        root.mkdir()
        lay_out(files, root)
        yield root

"""Kills, full and read-only disks, parents that change, two runs at once: one error, no harm."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from matformer_lab.checkpoint.disk.shards import split
from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import Plan, make_plan
from tests.support.command import CommandResult
from tests.support.kill_loop import contents
from tests.support.pico import PICO, write_parent

Cli = Callable[..., CommandResult]
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")


def half(parent: Path) -> Plan:
    opened = open_parent(str(parent))
    return make_plan(opened, resolve_slice("1/2", opened))


def refused(done: CommandResult, words: str) -> None:
    assert done.code == 2, (done.code, done.err)
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert words in done.err, done.err


# --- kills --------------------------------------------------------------------------------------


def kill_loop(*arguments: object) -> dict[str, int]:
    """Runs in a process of its own, in memory: what a kill leaves does not depend on the disk."""
    script = Path(__file__).parents[1] / "support" / "kill_loop.py"
    with TemporaryDirectory(dir=MEMORY) as scratch:
        kind, parent, *rest = map(str, arguments)
        done = subprocess.run(
            [sys.executable, str(script), kind, parent, scratch, *rest],
            capture_output=True,
            text=True,
            check=False,
            timeout=3000,
        )
    assert done.returncode == 0, done.stderr
    result: dict[str, int] = json.loads(done.stdout)
    return result


@posix
@pytest.mark.slow
def test_two_hundred_kills_at_random_moments(pico_full: Path) -> None:
    seen = kill_loop("random", pico_full, 200, 20261123)
    assert seen["kills"] >= 200
    assert seen["resumed"] > 50 and seen["finished"] > 10


@posix
@pytest.mark.slow
def test_kills_at_every_fifth_file_operation(pico: Path) -> None:
    assert kill_loop("steps", pico, 10**9, 5)["kills"] > 15


@posix
@pytest.mark.slow
def test_a_kill_at_every_file_operation(pico_full: Path) -> None:
    assert kill_loop("steps", pico_full, 60_000, 1)["kills"] > 200


@posix
@pytest.mark.slow
def test_kills_over_a_large_parent(tmp_path: Path) -> None:
    """A quarter of a gigabyte, so that kills fall into the middle of large files."""
    large = {**PICO, "hidden_size": 512, "intermediate_size": 8192}
    parent = write_parent(tmp_path / "large", config=large)
    seen = kill_loop("random", parent, 40, 11)
    assert seen["kills"] >= 40 and seen["resumed"] > 5


@posix
def test_the_command_line_killed_and_run_again(pico_full: Path, tmp_path: Path) -> None:
    out = tmp_path / "child"
    command = [sys.executable, "-m", "matformer_lab", "slice", str(pico_full)]
    command += ["--slice", "1/2", "--out", str(out), "--max-shard-size", "60KB"]
    generator = random.Random(7)
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(generator.uniform(0.5, 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            break
    else:
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert verify_checkpoint(out, open_parent(str(pico_full))).ok


@posix
def test_an_interrupt_says_how_to_go_on(pico_full: Path, tmp_path: Path) -> None:
    """SIGINT while the parent's weights are read: 130, one line, nothing under the name."""
    script = (
        "import os, signal, sys\n"
        "import matformer_lab.checkpoint.disk.shard_writer as writer\n"
        "real = writer.child_bytes\n"
        "def slow(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    yield from real(*arguments)\n"
        "writer.child_bytes = slow\n"
        "from matformer_lab.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ["slice", str(pico_full), "--slice", "1/2", "--out", "child"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "interrupted; run the same command again to continue"
    assert not (tmp_path / "child").exists()


def test_what_a_kill_at_the_very_last_step_leaves_is_tidied(
    pico: Path, tmp_path: Path, cli: Cli
) -> None:
    """The checkpoint is whole and named; of the place of work only the empty folder is left."""
    command = ("slice", pico, "--slice", "1/2", "--out", "child")
    assert cli(*command).code == 0
    (tmp_path / ".child.partial").mkdir()
    refused(cli(*command), "already exists")
    assert [path.name for path in tmp_path.iterdir()] == ["child"]


def flip_a_byte_under_the_old_time(path: Path) -> None:
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_half_written_shard_is_not_believed(pico_full: Path, tmp_path: Path) -> None:
    """Finished shards whose file was touched, cut short or replaced since are written again."""
    plan = half(pico_full)
    reference = contents(write_checkpoint(plan, tmp_path / "reference", max_shard_size=60_000))
    out = tmp_path / "child"
    for harm in (
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: os.truncate(path, path.stat().st_size - 1),
        flip_a_byte_under_the_old_time,
        lambda path: path.unlink(),
    ):
        with pytest.raises(InputError), parent_breaks(pico_full, plan):
            write_checkpoint(plan, out, max_shard_size=60_000, threads=1)
        finished = sorted((tmp_path / ".child.partial" / "files").iterdir())
        assert finished and not out.exists()
        harm(finished[0])
        write_checkpoint(plan, out, max_shard_size=60_000)
        assert contents(out) == reference
        shutil.rmtree(out)


@contextmanager
def parent_breaks(folder: Path, plan: Plan) -> Iterator[None]:
    """The file with the child's last tensors is shorter than its header says, for a while.

    Its size and time are put back, so that the next run takes the parent for the same.
    """
    from matformer_lab.checkpoint.disk import shard_writer, tensor_bytes

    last = plan.tensors[-1].name

    def failing(source: Path, tensor: Any, scratch: Any) -> Iterator[memoryview]:
        if tensor.name == last:
            raise InputError("the parent cannot be read any more")
        return tensor_bytes.child_bytes(source, tensor, scratch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "child_bytes", failing)
        yield


# --- disks and folders --------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip(f"mounting a small filesystem is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_too_little_space_is_seen_before_writing(pico: Path, tmp_path: Path, cli: Cli) -> None:
    with mounted(tmp_path / "small", "size=64k") as disk:
        refused(
            cli("slice", pico, "--slice", "1/2", "--out", disk / "child"), "the disk has 65.5 kB"
        )
        assert not list(disk.iterdir())


def test_a_disk_that_fills_up_on_the_way(pico: Path, tmp_path: Path, cli: Cli) -> None:
    """Enough for the tensors, too little for the rest; then room is made and the run goes on."""
    weights = sum(shard.nbytes for shard in split(half(pico).tensors, 10**9))
    pages = weights // 4096 + 4
    with mounted(tmp_path / "small", f"size={pages * 4096}") as disk:
        done = cli("slice", pico, "--slice", "1/2", "--out", disk / "child")
        refused(done, "No space left on device")
        assert "run again to continue" in done.err
        assert not (disk / "child").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert cli("slice", pico, "--slice", "1/2", "--out", disk / "child").code == 0
        assert verify_checkpoint(disk / "child", open_parent(str(pico))).ok
        assert [path.name for path in disk.iterdir()] == ["child"]


def limit_file_size() -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


@posix
def test_a_limit_on_file_size(pico: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("slice", pico, "--slice", "1/2", "--out", "child", preexec_fn=limit_file_size)
    refused(done, "File too large")
    assert not (tmp_path / "child").exists()


def test_a_read_only_filesystem(pico: Path, tmp_path: Path, cli: Cli) -> None:
    with mounted(tmp_path / "fixed", "ro") as disk:
        refused(cli("slice", pico, "--slice", "1/2", "--out", disk / "child"), "Read-only")


def give_up_roots_rights() -> None:
    """Permissions bind root too once a process may not override them (CAP_DAC_*)."""
    import ctypes

    drop_from_bounding_set, dac_override, dac_read_search = 24, 1, 2
    for capability in (dac_override, dac_read_search):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="drops a Linux capability")
def test_a_folder_that_may_not_be_written(pico: Path, tmp_path: Path, cli: Cli) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    out = locked / "child"
    done = cli("slice", pico, "--slice", "1/2", "--out", out, preexec_fn=give_up_roots_rights)
    refused(done, "Permission denied")
    assert not list(locked.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="drops a Linux capability")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "."])
def test_a_parent_that_may_not_be_read(name: str, pico: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(pico, tmp_path / "parent")
    (tmp_path / "parent" / name).chmod(0)
    out = tmp_path / "child"
    done = cli(
        *("slice", tmp_path / "parent", "--slice", "1/2", "--out", out),
        preexec_fn=give_up_roots_rights,
    )
    refused(done, "Permission denied")
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]
    (tmp_path / "parent" / name).chmod(0o755)


def test_where_the_output_may_not_be(pico: Path, tmp_path: Path, cli: Cli) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(pico, parent)
    before = contents(parent)
    (tmp_path / "link").symlink_to(parent)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for out, words in (
        (parent, "is the parent itself"),
        (tmp_path / "link", "is the parent itself"),
        (parent / "child", "lies inside the parent"),
        (tmp_path / "link" / "deep" / "child", "lies inside the parent"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "full", "not empty"),
        (tmp_path / "file" / "child", "cannot be written"),
    ):
        refused(cli("slice", parent, "--slice", "1/2", "--out", out), words)
    assert contents(parent) == before
    assert {path.name for path in tmp_path.iterdir()} == {"parent", "link", "file", "full"}


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_in_the_way_that_is_not_ours(
    link: bool, pico: Path, tmp_path: Path, cli: Cli
) -> None:
    """The place of work has a name; what a user keeps under that name is not touched."""
    precious = tmp_path / ("precious" if link else ".child.partial")
    precious.mkdir()
    (precious / "thesis.txt").write_text("mine")
    if link:
        (tmp_path / ".child.partial").symlink_to(precious)
    refused(cli("slice", pico, "--slice", "1/2", "--out", "child"), "in the way")
    assert (precious / "thesis.txt").read_text() == "mine"
    assert [path.name for path in precious.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_is_fine(pico: Path, tmp_path: Path) -> None:
    (tmp_path / "child").mkdir()
    out = write_checkpoint(half(pico), tmp_path / "child")
    assert verify_checkpoint(out, open_parent(str(pico))).ok


# --- a parent that changes, two runs ------------------------------------------------------------


def one_byte_changes(weights: Path) -> None:
    with weights.open("r+b") as file:
        file.seek(-100, 2)
        (byte,) = file.read(1)
        file.seek(-100, 2)
        file.write(bytes([byte ^ 1]))


def it_shrinks(weights: Path) -> None:
    os.truncate(weights, weights.stat().st_size // 2)


@pytest.mark.parametrize("change", [one_byte_changes, it_shrinks])
def test_a_parent_that_changes_while_it_is_read(
    pico: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(pico, parent)
    plan = half(parent)
    touched = False

    def advance(_: int) -> None:
        nonlocal touched
        if not touched:
            touched = True
            change(parent / "model.safetensors")

    with pytest.raises(InputError, match="changed while it was read"):
        write_checkpoint(plan, tmp_path / "child", progress=advance)
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


def test_a_parent_that_changed_since_it_was_planned(pico: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(pico, parent)
    plan = half(parent)
    data = (parent / "model.safetensors").read_bytes()
    (parent / "model.safetensors").write_bytes(data.replace(b'"BF16"', b'"F16" ', 1))
    with pytest.raises(InputError, match="changed while it was read"):
        write_checkpoint(plan, tmp_path / "child")


def test_an_unfinished_run_of_another_parent_is_not_continued(pico: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(pico, parent)
    plan = half(parent)
    with pytest.raises(InputError), parent_breaks(parent, plan):
        write_checkpoint(plan, tmp_path / "child", max_shard_size=20_000, threads=1)
    assert list((tmp_path / ".child.partial" / "files").iterdir())
    data = bytearray((parent / "model.safetensors").read_bytes())
    data[-1000:] = bytes(1000)
    (parent / "model.safetensors").write_bytes(data)
    out = write_checkpoint(half(parent), tmp_path / "child", max_shard_size=20_000)
    assert verify_checkpoint(out, open_parent(str(parent))).ok


@posix
def test_two_runs_at_once(pico_full: Path, tmp_path: Path, cli: Cli) -> None:
    """While one run writes, a second one is told so; the first is not disturbed."""
    plan = half(pico_full)
    second: list[CommandResult] = []

    def advance(_: int) -> None:
        if not second:
            second.append(cli("slice", pico_full, "--slice", "1/2", "--out", tmp_path / "child"))

    out = write_checkpoint(plan, tmp_path / "child", progress=advance, threads=1)
    refused(second[0], "another run is writing it")
    assert verify_checkpoint(out, open_parent(str(pico_full))).ok
    assert [path.name for path in tmp_path.iterdir()] == ["child"]

"""The process around a command: its exit code says what happened, whatever happens to it."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import CommandResult, run_offline

Cli = Callable[..., CommandResult]
INTERRUPTED = "interrupted; run the same command again to continue"


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., CommandResult]:
    """Runs a line of bash, in which $M is the command."""

    def run(line: str, **env: str) -> CommandResult:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            cwd=tmp_path,
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "M": f"{sys.executable} -m matformer_lab",
                **env,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    return run


Shell = Callable[..., CommandResult]


# --- stdout and stderr ---


def test_a_closed_stdout_changes_nothing(tmp_path: Path, shell: Shell) -> None:
    done = shell("$M slice tiny --slice 1/2 --out child >&-")
    assert (done.code, done.err) == (0, "")
    assert shell("$M verify child --parent tiny").code == 0
    assert shell("$M verify child --parent tiny --slice e2b >&-").code == 1
    assert shell("$M plan tiny --slice nope >&- 2>&-").code == 2
    assert shell("$M plan tiny --slice 1/2 <&- >&- 2>&-").code == 0


def test_a_reader_that_is_gone_changes_nothing(shell: Shell) -> None:
    for line in ("$M plan tiny --slice 1/2 | true", "$M --help | true", "$M plan -h | true"):
        done = shell(line)
        assert (done.code, done.err) == (0, "")
    done = shell("$M plan tiny --slice 1/2 | head -1")
    assert (done.code, done.err) == (0, "") and done.out.count("\n") == 1
    assert shell("$M plan tiny --slice nope 2>&1 | true").code == 2


def test_no_is_still_no_when_nobody_reads_it(shell: Shell) -> None:
    assert shell("$M slice tiny --slice 1/2 --out child").code == 0
    for pipe in ("| true", "| head -1", "2>&1 | true"):
        assert shell(f"$M verify child --parent tiny --slice e2b {pipe}").code == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_below_stdout(shell: Shell) -> None:
    done = shell("$M plan tiny --slice 1/2 >/dev/full")
    assert done.code == 2
    assert done.err == "error: standard output cannot be written (No space left on device)\n"
    assert "standard output cannot be written" in shell("$M --help >/dev/full").err
    assert shell("$M plan tiny --slice nope 2>/dev/full").code == 2


@pytest.mark.slow
def test_a_terminal_that_knows_ascii_only(tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "ü").mkdir()
    (tmp_path / "s.yaml").write_text("{name: größer, widths: 1/2}", encoding="utf-8")
    for line in ("$M plan tiny --slice s.yaml", "$M plan tiny --slice s.yaml --json", "$M slices"):
        done = shell(line, PYTHONIOENCODING="ascii")
        assert (done.code, done.err) == (0, "") and done.out.isascii()
    done = shell("$M plan ü --slice 1/2", PYTHONIOENCODING="ascii")
    assert done.code == 2 and done.err.startswith("error: \\xfc: no config.json")
    recipe = "{parent: tiny, slices: [s.yaml], tasks: [tiny_boolq], limit: 3, "
    recipe += "apply_chat_template: false}"
    (tmp_path / "r.yaml").write_text(recipe)
    done = shell("$M sweep r.yaml --out out", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (done.code, done.err) == (0, "") and "gr\\xf6\\xdfer" in done.out


# --- memory ---


@pytest.mark.skipif(sys.platform != "linux", reason="needs ulimit -v")
@pytest.mark.parametrize("kilobytes", [100_000, 150_000, 300_000, 500_000])
def test_too_little_address_space(kilobytes: int, shell: Shell) -> None:
    done = shell(f"ulimit -v {kilobytes}; $M plan tiny --slice 1/2")
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"error: the address space is limited to \d+ MiB .*\n", done.err)


@pytest.mark.skipif(sys.platform != "linux", reason="needs ulimit -v")
def test_just_enough_address_space(tmp_path: Path, shell: Shell) -> None:
    assert shell("ulimit -v 540000; $M slice tiny --slice 1/2 --out child").code == 0


# --- what nobody foresaw ---

FAULT = """\
import sys
from matformer_lab.cli import main
from matformer_lab.slicing import plan
def make_plan(*args, **kwargs):
    {fault}
plan.make_plan = make_plan
main(["plan", "tiny", "--slice", "1/2"])
"""


@pytest.mark.parametrize(
    "fault", ["{}['\\x1b[2J']", "sys.exit(1)", "sys.exit()", "assert False", "[].pop()"]
)
def test_a_fault_of_ours_is_70_with_a_line_and_a_log(fault: str, tmp_path: Path) -> None:
    env = {"MATFORMER_LAB_CACHE": str(tmp_path / "cache")}
    done = run_offline("-c", FAULT.format(fault=fault), cwd=tmp_path, env=env)
    assert (done.code, done.out) == (70, "")
    assert done.err.startswith("error: a fault in matformer-lab") and done.err.count("\n") == 1
    assert done.err.rstrip("\n").isprintable()
    (log,) = (tmp_path / "cache" / "logs").iterdir()
    assert str(log) in done.err and "report" in done.err
    assert "in make_plan" in log.read_text() and "\x1b" not in log.read_text()


def test_a_fault_where_no_log_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    places = dict.fromkeys(("MATFORMER_LAB_CACHE", "TMPDIR"), str(tmp_path / "file" / "x"))
    done = run_offline("-c", FAULT.format(fault="[].pop()"), cwd=tmp_path, env=places)
    assert done.code == 70 and done.err.count("\n") == 1


def test_a_fault_while_the_package_is_imported(tmp_path: Path) -> None:
    """A broken installation is no verdict either."""
    broken = tmp_path / "lazy_loader.py"
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    for text, code in (("1 / 0", 70), ("import nowhere_at_all", 70), ("raise MemoryError", 2)):
        broken.write_text(text)
        done = run_offline("-m", "matformer_lab", "--version", cwd=tmp_path, env=env)
        assert done.code == code, done.err
        assert done.err.startswith("error: ") and done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise MemoryError", "not enough memory"),
        (
            "raise ImportError('x.so: failed to map segment from shared object')",
            "not enough memory",
        ),
        ("raise OSError(28, 'No space left on device', 'out')", "out: No space left"),
    ],
)
def test_what_the_machine_lacks_is_no_fault_of_ours(fault: str, words: str, tmp_path: Path) -> None:
    done = run_offline("-c", FAULT.format(fault=fault), cwd=tmp_path)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1


# --- Ctrl-C ---


def interrupted_after(seconds: float, times: int, *arguments: str, cwd: Path) -> CommandResult:
    process = subprocess.Popen(
        [sys.executable, "-m", "matformer_lab", *arguments],
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(seconds)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.03)
    out, err = process.communicate(timeout=60)
    return CommandResult(process.returncode, out, err)


@pytest.mark.parametrize("times", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_ctrl_c_at_any_time(times: int, tmp_path: Path) -> None:
    """Imports take most of the time of such a command."""
    took = time.monotonic()
    arguments = ("slice", "tiny", "--slice", "1/2", "--out", "child")
    assert run_offline("-m", "matformer_lab", *arguments, cwd=tmp_path).code == 0
    took = time.monotonic() - took
    moments = random.Random(times)
    seen = set()
    for number in range(6):
        out = f"child{number}"
        moment = took * moments.uniform(0.1, 0.9)
        done = interrupted_after(moment, times, *arguments[:-1], out, cwd=tmp_path)
        seen.add(done.code)
        if done.code == 130:
            assert done.err == f"{INTERRUPTED}\n"
            assert not (tmp_path / out).exists()
        elif "runpy" not in done.err:  # Python itself had not come to us yet
            # Python was on its way out, where Ctrl-C kills.
            assert done.code in (0, -signal.SIGINT), done
            assert (tmp_path / out).exists()
    assert 130 in seen


SWALLOWED = """\
import os, signal, sys, time
from matformer_lab.cli import main
from matformer_lab.slicing import plan
def make_plan(*args, **kwargs):
    {body}
plan.make_plan = make_plan
main(["plan", "tiny", "--slice", "1/2"])
"""
CTRL_C = "os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize(
    "body",
    [
        CTRL_C,
        f"try: {CTRL_C}; time.sleep(1)\n    except BaseException: raise ImportError('half')",
        f"try: {CTRL_C}; time.sleep(1)\n    finally: {CTRL_C}; time.sleep(0.01); {CTRL_C}",
        f"try: {CTRL_C}; time.sleep(1)\n    except BaseException: time.sleep(1.1); {CTRL_C}; 1 / 0",
    ],
    ids=["plain", "turned into another error", "twice while cleaning up", "swallowed, again"],
)
def test_ctrl_c_that_a_library_meets(body: str, tmp_path: Path) -> None:
    done = run_offline("-c", SWALLOWED.format(body=body), cwd=tmp_path)
    assert (done.code, done.err) == (130, f"{INTERRUPTED}\n")


def test_without_the_command_line_ctrl_c_is_pythons(tmp_path: Path) -> None:
    code = "import signal, matformer_lab; print(signal.getsignal(2) is signal.default_int_handler)"
    assert run_offline("-c", code, cwd=tmp_path).out == "True\n"

"""What the disk benchmarks share: warming and emptying the page cache, timing a command."""

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

CLI = [sys.executable, "-m", "matformer_lab"]
ORDINARY_CLI = [
    sys.executable,
    "-c",
    "import os, sys; del os.O_DIRECT; from matformer_lab.cli.main import main; main(sys.argv[1:])",
]
"""The same where direct writes do not exist."""


@dataclass(frozen=True)
class Run:
    seconds: float
    cpu_seconds: float
    peak_anonymous_mb: float


def timed(command: Sequence[object], **options: Any) -> Run:
    """Run a command that must succeed; its wall time, CPU time and peak `RssAnon` (Linux).

    `options`: `subprocess.Popen`'s.
    """
    before = os.times()
    start = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, **options
    )
    peak = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, _anonymous_mb(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.monotonic() - start
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"{command} ended with {code}")
    after = os.times()
    cpu = after.children_user + after.children_system
    return Run(seconds, cpu - before.children_user - before.children_system, peak)


def _anonymous_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon"))


def settle() -> None:
    """Let earlier writes and removals reach the disk, so that they are not timed with the next."""
    os.sync()
    time.sleep(1)


def weights(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def size_of(folder: Path) -> int:
    """Bytes on disk, a file with several names counted once."""
    stats = (path.stat() for path in folder.rglob("*"))
    return sum({(s.st_dev, s.st_ino): s.st_blocks * 512 for s in stats}.values())


def warm(files: Iterable[Path]) -> None:
    """Bring files into the page cache. Twice: reclaim may have begun on the first pages."""
    for path in [*files] * 2:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def evict(files: Iterable[Path]) -> None:
    """Drop files from the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}, load {load:.1f}, {date.today()}"
    )

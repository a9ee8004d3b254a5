"""A process that sends itself a signal when it is about to name its n-th file.

    python tests/at_rename.py N ARGUMENTS...     Ctrl-C in `matformer-lab ARGUMENTS...`

From within, because a busy machine may let a command finish before a signal of a test's is there.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any


def signal_at_rename(count: int, to_itself: signal.Signals) -> None:
    left, replace = count, Path.replace

    def counting(self: Path, target: Any) -> Path:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), to_itself)
        return replace(self, target)

    Path.replace = counting  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    from matformer_lab.cli.main import main

    signal_at_rename(int(sys.argv[1]), signal.SIGINT)
    main(sys.argv[2:])

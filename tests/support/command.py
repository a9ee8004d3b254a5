"""Commands as a user runs them: processes of their own."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CommandResult:
    code: int
    out: str
    err: str


def run_offline(
    *arguments: object, cwd: Path, env: Mapping[str, str] | None = None, **kwargs: Any
) -> CommandResult:
    """`python ARGUMENTS...`, a process of its own, with `env` besides this one's environment."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=kwargs.pop("timeout", 300),
        check=False,
        **kwargs,
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


def run_here(*arguments: object) -> CommandResult:
    """`matformer-lab ARGUMENTS...` in this process, which spares it the seconds of a start."""
    from matformer_lab.cli.main import _run

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = _run([str(argument) for argument in arguments])
    return CommandResult(code, out.getvalue(), err.getvalue())


def interrupted(
    *arguments: object, before_rename: int, cwd: Path, env: Mapping[str, str] | None = None
) -> str:
    """Ctrl-C for a command when it is about to name its n-th file; what it says on stderr."""
    script = Path(__file__).with_name("at_rename.py")
    done = run_offline(script, before_rename, *arguments, cwd=cwd, env=env)
    assert done.code == 130, done.err
    return done.err

"""Commands in processes of their own, without the seconds of a start.

A server imports what commands import, once, and forks itself for each of them. The child has its
own folder, arguments and streams, runs `main` and ends with its exit code, as `matformer-lab` does.
What happens before `main` (imports, environment) is tested by real starts.
"""

import atexit
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from tests.support.command import CommandResult

ROOT: Final = Path(__file__).resolve().parents[2]

IMPORTED: Final = (
    "datasets",
    "lm_eval.evaluator",
    "lm_eval.tasks",
    "matplotlib.figure",
    "pandas",
    "transformers.models.gemma3n.modeling_gemma3n",
    "matformer_lab.cli.main",
    "matformer_lab.gate.run",
    "matformer_lab.report.write",
    "matformer_lab.sweep.run",
)
"""What takes the time; whatever else a command imports it imports itself."""


class ForkServer:
    """One server, started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ours: socket.socket | None = None

    def run(self, *arguments: object, cwd: Path, timeout: float = 300) -> CommandResult:
        """`matformer-lab ARGUMENTS...` in `cwd`."""
        connection = self._started()
        connection.settimeout(timeout)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            request = json.dumps([str(cwd), [str(argument) for argument in arguments]])
            streams = [out.fileno(), err.fileno()]
            socket.send_fds(connection, [len(request).to_bytes(4, "big")], streams)
            connection.sendall(os.fsencode(request))
            code = int(_exactly(connection, 4).decode())
            out.seek(0)
            err.seek(0)
            return CommandResult(code, out.read().decode(), err.read().decode())

    def close(self) -> None:
        """End the server."""
        if self._ours is not None:
            self._ours.close()
        if self._process is not None:
            self._process.wait(60)

    def _started(self) -> socket.socket:
        if self._ours is None:
            self._ours, theirs = socket.socketpair()
            command = [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())]
            environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()]
            )
            theirs.close()
        return self._ours


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _serve(connection: socket.socket) -> None:
    for module in IMPORTED:
        importlib.import_module(module)
    while True:
        length, streams, _, _ = socket.recv_fds(connection, 4, 2)
        if not length:
            return
        cwd, arguments = json.loads(_exactly(connection, int.from_bytes(length, "big")))
        child = os.fork()
        if child == 0:
            connection.close()
            _run(cwd, arguments, streams)
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(child, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status):4d}".encode())


def _run(cwd: str, arguments: Sequence[str], streams: Sequence[int]) -> NoReturn:
    """What `matformer-lab` does after its imports."""
    code = 70
    try:
        os.chdir(cwd)
        for number, stream in enumerate((os.open(os.devnull, os.O_RDONLY), *streams)):
            os.dup2(stream, number)
            os.close(stream)
        sys.argv = ["matformer-lab", *arguments]
        from matformer_lab.cli.main import main

        try:
            main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))

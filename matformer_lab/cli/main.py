"""`matformer-lab`: every command parses its arguments, calls the library and prints the result.

Exit codes: 0 success, 1 a check failed, 2 bad input, 70 a fault of ours, 130 interrupted.
"""

import errno
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from matformer_lab.cli import interrupts
from matformer_lab.cli.checkpoints import plan, slice_command, slices, verify
from matformer_lab.cli.exit_codes import BAD_INPUT, DONE, INTERRUPTED, UNFORESEEN
from matformer_lab.cli.output import PrintableRecord, WarningLog, complain, flush, note, warn
from matformer_lab.cli.publishing import push
from matformer_lab.cli.searches import search
from matformer_lab.cli.starting import started
from matformer_lab.cli.sweeps import gate, report, sweep
from matformer_lab.cli.unforeseen import out_of_memory, unforeseen
from matformer_lab.common.errors import InputError
from matformer_lab.common.version import __version__

_PARAMETER = re.compile(r"`(\w+)(=True)?`")
"""How the library's messages write parameters: `` `max_drop` `` or `` `update=True` ``."""


class _Held(Exception):  # noqa: N818 (no error of its own)
    """Carries an exception (its cause) past click, which would end the process for it: exit code 1
    for a closed pipe, an empty line for Ctrl-C."""


@contextmanager
def _held() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, EOFError, OSError) as error:
        raise _Held from error


class _Group(click.Group):
    """Turns parameter names in the library's errors and warnings into option names."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """As click does."""
        with _held():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the arguments name."""
        try:
            with _held(), warnings.catch_warnings():
                # Only our own warnings are meant for the user.
                warnings.filterwarnings("always", module="matformer_lab")
                warnings.showwarning = lambda message, *_: warn(_as_options(str(message), ctx))
                return super().invoke(ctx)
        except InputError as error:
            raise InputError(_as_options(str(error), ctx)) from error


def _as_options(message: str, ctx: click.Context) -> str:
    """`message` with `` `max_drop` `` replaced by `--max-drop` if the command has that option."""
    command = cli.get_command(ctx, ctx.invoked_subcommand or "")
    options = {
        name.lstrip("-").replace("-", "_"): name
        for parameter in (command.params if command else ())
        for name in parameter.opts
        if name.startswith("--")
    }

    def option(match: re.Match[str]) -> str:
        return options.get(match[1], match[0])

    return _PARAMETER.sub(option, message)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="matformer-lab")
def cli() -> None:
    """Slice, score and plot the models nested inside Gemma 3n E4B."""


for command in (slices, plan, slice_command, verify, sweep, search, report, gate, push):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Every error that a user can cause is reported in one line on stderr.

    Args:
        arguments: The command and its arguments; None: those of the process.
    """
    started()
    try:
        interrupts.raise_once()
        logging.setLogRecordFactory(PrintableRecord)
        logging.getLogger("matformer_lab").addHandler(WarningLog())
        code = _run(arguments)
    except KeyboardInterrupt:
        code = _interrupted()
    if code == INTERRUPTED:
        interrupts.leave_cleanly()
    interrupts.leave_at_once()
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    """The exit code of a command, whatever happens in it."""
    try:
        # The result of a check, or of --help; other commands return nothing.
        code = cli.main(arguments, prog_name="matformer-lab", standalone_mode=False)
        flush()
        return code if isinstance(code, int) else DONE
    except BaseException as caught:
        error = caught.__cause__ or caught if isinstance(caught, _Held) else caught
        return _interrupted() if interrupts.happened(error) else _failed(error)


def _interrupted() -> int:
    note(interrupts.MESSAGE)
    return INTERRUPTED


def _failed(error: BaseException) -> int:
    """Say what went wrong; the exit code."""
    if isinstance(error, InputError):
        complain(str(error))
    elif isinstance(error, click.UsageError):
        hint = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        complain(error.format_message() + hint)
    elif isinstance(error, click.ClickException):
        complain(error.format_message())
    elif isinstance(error, BrokenPipeError):
        flush()  # the reader of --help (head, less) has seen enough
        return DONE
    elif lacking := out_of_memory(error):
        complain(lacking)
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        if error.errno == errno.ENOSPC and not where:
            # click prints --help itself; other files say what they are called.
            where = "standard output cannot be written: " if "--help" in sys.argv else ""
        complain(f"{where}{error.strerror or error}")
    else:
        complain(unforeseen(error))
        return UNFORESEEN
    return BAD_INPUT

"""`matformer-lab`: every command parses its arguments, calls the library and prints the result.

Exit codes: 0 success, 1 a check failed, 2 bad input, 130 interrupted.
"""

import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from matformer_lab.cli.checkpoints import plan, slice_command, slices, verify
from matformer_lab.cli.output import warn
from matformer_lab.cli.sweeps import gate, report, sweep
from matformer_lab.common.errors import InputError
from matformer_lab.common.version import __version__

_PARAMETER = re.compile(r"`(\w+)(=True)?`")
"""How the library's messages write parameters: `` `max_drop` `` or `` `update=True` ``."""


class _Group(click.Group):
    """Turns parameter names in the library's errors and warnings into option names."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
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


for command in (slices, plan, slice_command, verify, sweep, report, gate):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Every error that a user can cause is reported in one line on stderr.

    Args:
        arguments: The command and its arguments; None: those of the process.
    """
    try:
        code = cli.main(arguments, prog_name="matformer-lab", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except InputError as error:
        _fail(str(error))
    except click.UsageError as error:
        hint = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        _fail(error.format_message() + hint)
    except click.ClickException as error:
        _fail(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; run the same command again to continue", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) has exited and wants no more output.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}")


def _fail(message: str) -> NoReturn:
    click.echo("error: " + " ".join(message.split()), err=True)
    sys.exit(2)

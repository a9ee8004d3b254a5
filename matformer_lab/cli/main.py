"""`matformer-lab`: arguments in, one call into the library, text or JSON out.

Exit codes: 0 done, 1 a check said no, 2 bad input, 130 interrupted.
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


class _Group(click.Group):
    """Lets the library speak of parameters and the user read of options."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                # Our own, which are for the user; other libraries' are not.
                warnings.filterwarnings("always", module="matformer_lab")
                warnings.showwarning = lambda message, *_: warn(_as_options(str(message), ctx))
                return super().invoke(ctx)
        except InputError as error:
            raise InputError(_as_options(str(error), ctx)) from error


def _as_options(message: str, ctx: click.Context) -> str:
    """`` `max_drop` `` as `--max-drop`, where the command has that option."""
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
    """Run the command line; every error a user can cause ends as one line on stderr."""
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
        # The reader (head, less) has gone; there is no one to tell.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}")


def _fail(message: str) -> NoReturn:
    click.echo("error: " + " ".join(message.split()), err=True)
    sys.exit(2)

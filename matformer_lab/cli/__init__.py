"""The command line."""

from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit (`main.main`, whose imports start here)."""
    from matformer_lab.cli.starting import started

    started()
    from matformer_lab.cli.main import main as run

    run(arguments)

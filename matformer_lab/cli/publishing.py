"""The command that sends slices to the Hub: push."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from matformer_lab.cli.output import print_table, say

if TYPE_CHECKING:
    from matformer_lab.publish.push import Pushed


@click.command(short_help="Upload a slice, or a family of slices, to the Hub.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("repo_id", metavar="[REPO_ID]", required=False)
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option(
    "--sweep",
    metavar="SWEEP",
    type=click.Path(path_type=Path),
    help="Folder of a finished sweep, whose scores go on the card.",
)
@click.option("--revision", metavar="R", show_default="main", help="Branch to push to.")
@click.option(
    "--repos",
    metavar="PATTERN",
    help="A repository for each slice, like me/e4b-{slice}, instead of REPO_ID.",
)
@click.option(
    "--card",
    type=click.Choice(["keep", "replace"]),
    help="What to do with a card that was edited on the Hub.",
)
@click.option("--dry-run", is_flag=True, help="List what would be sent; send nothing.")
def push(
    folder: Path,
    repo_id: str | None,
    private: bool,
    sweep: Path | None,
    revision: str | None,
    repos: str | None,
    card: Literal["keep", "replace"] | None,
    dry_run: bool,
) -> None:
    """Upload a slice, or a family of slices, to the Hub.

    DIR is a checkpoint or a family that slice wrote; it is verified first. REPO_ID is org/name. The
    members of a family go to branches of their names. After an interruption, the same command
    continues. Nothing on the Hub is replaced but what an earlier push put there.
    """
    from matformer_lab.publish.push import push as push_folder

    done = push_folder(
        folder,
        repo_id,
        private=private,
        sweep=sweep,
        revision=revision,
        repos=repos,
        card=card,
        dry_run=dry_run,
    )
    if dry_run:
        _print_dry_run(done)
    for line in (*done.notes, *done.problems):
        warnings.warn(line, stacklevel=1)  # shown with the names of options
    for branch in done.branches:
        say(str(branch))


def _print_dry_run(done: "Pushed") -> None:
    for branch in done.branches:
        rows = [(one.path, f"{one.size:,}", one.state) for one in branch.files]
        print_table((branch.ref, "bytes", "state"), rows)
        for line in branch.card.splitlines():
            say(f"    {line}".rstrip())
        say("")

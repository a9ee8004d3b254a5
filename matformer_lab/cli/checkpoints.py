"""Commands about slices as checkpoints: slices, plan, slice, verify."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from matformer_lab.cli.output import print_json, print_table
from matformer_lab.common.errors import InputError

if TYPE_CHECKING:
    from matformer_lab.checkpoint.verification.verify import Verification

SLICE_HELP = (
    "a built-in name (see `slices`), a width for every layer (1/2), FILE.yaml, FILE.csv#ROW"
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
slice_option = click.option("--slice", "slice_ref", required=True, metavar="SLICE", help=SLICE_HELP)


@click.command()
@click.option("--parent", "parent_ref", metavar="PARENT", help="Count for this parent, not E4B.")
@json_option
def slices(parent_ref: str | None, as_json: bool) -> None:
    """List the built-in slices with their sizes and published scores.

    "published as" and MMLU are Google's labels; --json has the names of Google's rows too.
    """
    from matformer_lab.slicing.builtin_slices import builtin_slices

    found = builtin_slices(parent_ref)
    if as_json:
        print_json([entry.as_json() for entry in found])
        return
    head = ("slice", "layers", "effective", "text", "published as", "MMLU")
    rows = [
        (
            entry.name,
            str(entry.num_hidden_layers),
            f"{entry.effective:,}",
            f"{entry.text:,}",
            f"{entry.published.effective_params_b:.2f}B",
            f"{entry.published.mmlu:.1f} %",
        )
        for entry in found
    ]
    print_table(head, rows)


@click.command(short_help="Say what a slice would be: sizes, layers, runtimes.")
@click.argument("parent")
@slice_option
@click.option("--text-only", is_flag=True, help="Plan a gemma3n_text checkpoint without towers.")
@click.option("--context", type=click.IntRange(1), help="Tokens in the K/V cache [most].")
@json_option
def plan(parent: str, slice_ref: str, text_only: bool, context: int | None, as_json: bool) -> None:
    """Say what a slice would be, without reading weights: sizes, layers, runtimes.

    PARENT is a checkpoint folder, a Hub id (org/name, org/name@revision) or `tiny`.
    """
    from matformer_lab.parent.opening import open_parent
    from matformer_lab.slicing import tables
    from matformer_lab.slicing.notation.catalog import resolve_slice
    from matformer_lab.slicing.plan import make_plan
    from matformer_lab.slicing.plan_json import plan_json

    opened = open_parent(parent)
    planned = make_plan(opened, resolve_slice(slice_ref, opened), text_only=text_only)
    if as_json:
        print_json(plan_json(planned, context))
        return
    title = f"{planned.slice.name} of {opened.name}"
    print_table((title, ""), tables.size_rows(planned, context))
    print_table(tables.LAYER_HEAD, tables.layer_rows(planned))
    print_table(tables.RUNTIME_HEAD, tables.runtime_rows(planned))


@click.command("slice", short_help="Write the checkpoint of one slice, or of several.")
@click.argument("parent")
@click.option(
    "--slice",
    "slice_refs",
    required=True,
    multiple=True,
    metavar="SLICE",
    help=SLICE_HELP + ". Give it again, or `published`, for a family that shares files.",
)
@click.option("--out", required=True, metavar="DIR", type=click.Path(), help="Folder to write.")
@click.option("--text-only", is_flag=True, help="Drop the towers; write a gemma3n_text checkpoint.")
@click.option(
    "--max-shard-size", default="5GB", show_default=True, metavar="SIZE", help="Largest file."
)
@click.option("--base-model", metavar="REPO_ID", help="The parent's Hub id, for the model card.")
def slice_command(
    parent: str,
    slice_refs: Sequence[str],
    out: str,
    text_only: bool,
    max_shard_size: str,
    base_model: str | None,
) -> None:
    """Write the checkpoint of one slice, or a folder of several that share what they can.

    PARENT is a checkpoint folder, a Hub id (org/name, org/name@revision) or `tiny`. DIR is new, or
    a folder of several slices to which this one is added.
    """
    from matformer_lab.checkpoint.write_slices import write_slices

    written = write_slices(
        parent,
        slice_refs,
        out,
        text_only=text_only,
        max_shard_size=max_shard_size,
        base_model=base_model,
    )
    click.echo(str(written))


@click.command(short_help="Check that DIR is exactly the slice it claims to be.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--parent", metavar="PARENT", help="Recompute every tensor from it.")
@click.option("--slice", "slice_ref", metavar="SLICE", help="Expect this slice: " + SLICE_HELP)
@click.option("--against", metavar="DIR", type=click.Path(), help="Compare with this checkpoint.")
@json_option
def verify(
    folder: Path, parent: str | None, slice_ref: str | None, against: str | None, as_json: bool
) -> None:
    """Check that DIR is exactly the slice it claims to be (exit 1 if not).

    Without --parent or --against, DIR is checked against its own manifest.
    """
    from matformer_lab.checkpoint.verification.verify import compare_checkpoints, verify_checkpoint

    if against and (parent or slice_ref):
        raise InputError("--against compares two checkpoints; give it without --parent and --slice")
    if against:
        result = compare_checkpoints(folder, against)
    else:
        result = verify_checkpoint(folder, parent, slice_ref)
    _print_verification(folder, result, as_json)


def _print_verification(folder: Path, result: "Verification", as_json: bool) -> NoReturn:
    if as_json:
        problems = list(result.problems)
        print_json({"ok": result.ok, "tensors": result.tensors, "problems": problems})
    elif result.ok:
        click.echo(f"ok: {folder}, {result.tensors} tensors compared")
    else:
        shown = result.problems[:20]
        for problem in shown:
            click.echo(problem)
        more = len(result.problems) - len(shown)
        count = f"{len(result.problems)} problem" + "s" * (len(result.problems) > 1)
        click.echo(f"not ok: {count}" + f", {more} not shown" * bool(more))
    sys.exit(0 if result.ok else 1)

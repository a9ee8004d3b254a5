"""Commands that describe, write and verify slices: slices, plan, slice, verify."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from matformer_lab.cli.exit_codes import DONE, NO
from matformer_lab.cli.output import print_json, print_table, say
from matformer_lab.common.errors import InputError

if TYPE_CHECKING:
    from matformer_lab.checkpoint.verification.result import Verification
    from matformer_lab.parent.quantised import QuantisedCheckpoint

_SLICE_FORMS = (
    "a built-in name (matformer-lab slices lists them), one width for all layers (1/2), FILE.yaml "
    "or FILE.csv#ROW"
)

_as_is_option = click.option(
    "--as-is",
    is_flag=True,
    help="Fill in nothing of what runtimes want and PARENT lacks (K/V of layers that share them, "
    "rope numbers, layer_types).",
)
_kv_from_option = click.option(
    "--kv-from",
    metavar="PARENT",
    show_default="copies of the K/V that the layers share",
    help="Checkpoint to take K/V from that PARENT lacks: the one that it was tuned from.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


@click.command()
@click.option(
    "--parent",
    "parent_ref",
    metavar="PARENT",
    show_default="Gemma 3n E4B",
    help="Parent to compute the sizes for.",
)
@_json_option
def slices(parent_ref: str | None, as_json: bool) -> None:
    """List the built-in slices with their sizes and published scores.

    The columns "published as" and "MMLU" are Google's figures. With --json the output also has the
    row names of Google's table.
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


@click.command(short_help="Show a slice's sizes, layers and runtimes.")
@click.argument("parent")
@click.option(
    "--slice",
    "slice_ref",
    metavar="SLICE",
    show_default="PARENT as it lies there",
    help=f"Slice to plan: {_SLICE_FORMS}.",
)
@click.option("--text-only", is_flag=True, help="Plan a gemma3n_text checkpoint without towers.")
@_as_is_option
@_kv_from_option
@click.option(
    "--context",
    type=click.IntRange(1),
    metavar="TOKENS",
    show_default="the model's maximum",
    help="Tokens to size the K/V cache for.",
)
@_json_option
def plan(
    parent: str,
    slice_ref: str | None,
    text_only: bool,
    as_is: bool,
    kv_from: str | None,
    context: int | None,
    as_json: bool,
) -> None:
    """Show a slice's sizes, layers and the runtimes that load it, without reading weights.

    PARENT is a checkpoint folder, a Hub id (org/name or org/name@revision) or tiny. Without --slice
    PARENT itself is shown: which runtimes load it as it lies there.
    """
    from matformer_lab.parent.opening import open_checkpoint, open_parent
    from matformer_lab.parent.quantised import QuantisedCheckpoint
    from matformer_lab.slicing import tables
    from matformer_lab.slicing.notation.catalog import resolve_slice
    from matformer_lab.slicing.plan import make_plan
    from matformer_lab.slicing.plan_json import plan_json

    of_folder = slice_ref is None
    if of_folder and (text_only or as_is or kv_from):
        raise InputError("`text_only`, `as_is` and `kv_from` say how to slice; give `slice` too")
    opened = open_checkpoint(parent) if of_folder else open_parent(parent)
    if isinstance(opened, QuantisedCheckpoint):
        _print_quantised(opened, as_json)
        return
    planned = make_plan(
        opened,
        resolve_slice("full" if slice_ref is None else slice_ref, opened),
        text_only=text_only,
        as_is=as_is or of_folder,
        kv_from=open_parent(kv_from) if kv_from else None,
    )
    if as_json:
        print_json(plan_json(planned, context, of_folder=of_folder))
        return
    title = f"{opened.name} as it is" if of_folder else f"{planned.slice.name} of {opened.name}"
    print_table((title, ""), tables.size_rows(planned, context))
    print_table(tables.LAYER_HEAD, tables.layer_rows(planned))
    print_table(tables.RUNTIME_HEAD, tables.runtime_rows(opened if of_folder else planned))
    if planned.filling:
        say(f"{opened.name} lacks what some runtimes want; filled in {planned.filling}")


def _print_quantised(checkpoint: "QuantisedCheckpoint", as_json: bool) -> None:
    """Print what a quantised checkpoint is, and which runtimes load it."""
    from matformer_lab.slicing import tables
    from matformer_lab.slicing.plan_json import quantised_json

    if as_json:
        print_json(quantised_json(checkpoint))
        return
    print_table((f"{checkpoint.name} as it is", ""), tables.quantised_rows(checkpoint))
    print_table(tables.RUNTIME_HEAD, tables.runtime_rows(checkpoint))
    if checkpoint.should_not_be:
        say(
            f"quantised, and better left alone: {', '.join(checkpoint.should_not_be)}; "
            'docs, "Quantise a slice", has the list'
        )
    say("a quantised checkpoint cannot be sliced: slice the bf16 original, then quantise the slice")


@click.command("slice", short_help="Write a slice, or a family of slices, as checkpoints.")
@click.argument("parent")
@click.option(
    "--slice",
    "slice_refs",
    required=True,
    multiple=True,
    metavar="SLICE",
    help=f"Slice to write: {_SLICE_FORMS}. Repeat the option, or give published (all built-in "
    "slices), for a family.",
)
@click.option("--out", required=True, metavar="DIR", type=click.Path(), help="Folder to write.")
@click.option("--text-only", is_flag=True, help="Write a gemma3n_text checkpoint without towers.")
@_as_is_option
@_kv_from_option
@click.option(
    "--max-shard-size",
    default="5GB",
    show_default=True,
    metavar="SIZE",
    help="Maximum size of a weight file.",
)
@click.option(
    "--base-model",
    metavar="REPO_ID",
    help="Hub id of the parent, for the model card; of the slice, for an adapter.",
)
@click.option(
    "--adapter-of",
    metavar="PARENT",
    show_default="what its adapter_config.json says",
    help="What the adapter was trained on.",
)
def slice_command(
    parent: str,
    slice_refs: Sequence[str],
    out: str,
    text_only: bool,
    as_is: bool,
    kv_from: str | None,
    max_shard_size: str,
    base_model: str | None,
    adapter_of: str | None,
) -> None:
    """Write a slice as a checkpoint, or several slices as a family.

    The members of a family are checkpoints in one folder that share equal files by hard links.
    What runtimes want and PARENT lacks is filled in, and a line says so.

    PARENT is a checkpoint folder, a Hub id (org/name or org/name@revision) or tiny. DIR is a new
    folder, or a family to which the slices are added.

    PARENT may also be the folder of a LoRA that was trained on the parent: it is cut to the slice.
    """
    from matformer_lab.checkpoint.adapter import is_adapter, slice_adapter
    from matformer_lab.checkpoint.slices import write_slices

    if is_adapter(parent):
        if len(slice_refs) > 1 or as_is or kv_from:
            raise InputError(
                f"{parent}: is an adapter; give one `slice`, and neither `as_is` nor `kv_from`"
            )
        adapted = slice_adapter(
            parent,
            slice_refs[0],
            out,
            parent=adapter_of,
            text_only=text_only,
            base_model=base_model,
        )
        say(str(adapted))
        return
    if adapter_of:
        raise InputError(f"{parent}: is not an adapter's folder; leave out `adapter_of`")
    written = write_slices(
        parent,
        slice_refs,
        out,
        text_only=text_only,
        as_is=as_is,
        kv_from=kv_from,
        max_shard_size=max_shard_size,
        base_model=base_model,
    )
    say(str(written))


@click.command(short_help="Check that a checkpoint is exactly the slice it claims to be.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--parent", metavar="PARENT", help="Parent to recompute every tensor from.")
@click.option(
    "--slice",
    "slice_ref",
    metavar="SLICE",
    show_default="the one DIR claims to be",
    help=f"Slice that DIR must be: {_SLICE_FORMS}.",
)
@click.option(
    "--kv-from", metavar="PARENT", help="Checkpoint that K/V were taken from, to recompute them."
)
@click.option("--against", metavar="DIR", type=click.Path(), help="Checkpoint to compare with.")
@_json_option
def verify(
    folder: Path,
    parent: str | None,
    slice_ref: str | None,
    kv_from: str | None,
    against: str | None,
    as_json: bool,
) -> int:
    """Check that DIR is exactly the slice it claims to be (exit code 1 if not).

    DIR is a checkpoint or a family, or a Hub id (org/name@revision). Without --parent and --against
    it is checked against the digests in its own manifest. PARENT may also be what DIR's parent was
    cut from.
    """
    from matformer_lab.checkpoint.verification.verify import compare_checkpoints, verify_checkpoint

    if against and (parent or slice_ref or kv_from):
        raise InputError(
            "`against` compares two checkpoints; leave out `parent`, `slice` and `kv_from`, or "
            "`against`"
        )
    if against:
        result = compare_checkpoints(folder, against)
    else:
        result = verify_checkpoint(folder, parent, slice_ref, kv_from=kv_from)
    return _print_verification(folder, result, as_json)


def _print_verification(folder: Path, result: "Verification", as_json: bool) -> int:
    """Print what was found; the exit code."""
    if as_json:
        print_json(
            {
                "ok": result.ok,
                "tensors": result.tensors,
                "problems": list(result.problems),
                "kind": result.kind,
                "differing": list(result.differing),
            }
        )
    elif result.ok:
        say(f"ok: {folder}, {result.tensors} tensors compared")
    else:
        shown = result.problems[:20]
        for problem in shown:
            say(problem)
        more = len(result.problems) - len(shown)
        count = f"{len(result.problems)} problem" + "s" * (len(result.problems) > 1)
        if result.kind in ("tuned", "saved again", "quantised"):
            count = f"{result.kind}, not the slice byte for byte"
        say(f"not ok: {count}" + f", {more} not shown" * bool(more))
    return DONE if result.ok else NO

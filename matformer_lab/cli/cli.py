"""The command line: arguments in, one call into the library, text or JSON out.

Exit codes: 0 done, 1 a check said no, 2 bad input, 130 interrupted.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from matformer_lab import __version__
from matformer_lab.common.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from matformer_lab.checkpoint.verify import Verification
    from matformer_lab.parent.parent import Parent
    from matformer_lab.slicing.plan import Plan
    from matformer_lab.sweep.executor import Executor

SLICE_HELP = (
    "a built-in name (see `slices`), a width for every layer (1/2), FILE.yaml, FILE.csv#ROW"
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
slice_option = click.option("--slice", "slice_ref", required=True, metavar="SLICE", help=SLICE_HELP)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="matformer-lab")
def cli() -> None:
    """Slice, score and plot the models nested inside Gemma 3n E4B."""


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


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _console() -> "Console":
    """Stdout; in a pipe wide enough that no table is cut."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column, name in enumerate(head):
        cells = [row[column] for row in rows]
        number = bool(cells) and all(c[:1].isdigit() or c == "none" for c in cells)
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


@cli.command()
@click.option("--parent", "parent_ref", metavar="PARENT", help="Count for this parent, not E4B.")
@json_option
def slices(parent_ref: str | None, as_json: bool) -> None:
    """List the built-in slices with their sizes and published scores.

    "published as" and MMLU are Google's labels; --json has the names of Google's rows too.
    """
    from matformer_lab.slicing.builtin_slices import builtin_slices

    found = builtin_slices(parent_ref)
    if as_json:
        _print_json([entry.as_json() for entry in found])
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
    _console().print(_table(head, rows))


@cli.command(short_help="Say what a slice would be: sizes, layers, runtimes.")
@click.argument("parent")
@slice_option
@click.option("--text-only", is_flag=True, help="Plan a gemma3n_text checkpoint without towers.")
@click.option("--context", type=click.IntRange(1), help="Tokens in the K/V cache [most].")
@json_option
def plan(parent: str, slice_ref: str, text_only: bool, context: int | None, as_json: bool) -> None:
    """Say what a slice would be, without reading weights: sizes, layers, runtimes.

    PARENT is a checkpoint folder, a Hub id (org/name, org/name@revision) or `tiny`.
    """
    from matformer_lab.parent.parent import open_parent
    from matformer_lab.slicing.catalog import resolve_slice
    from matformer_lab.slicing.plan import make_plan
    from matformer_lab.slicing.plan_json import plan_json
    from matformer_lab.slicing.tables import (
        LAYER_HEAD,
        RUNTIME_HEAD,
        layer_rows,
        runtime_rows,
        size_rows,
    )

    opened = open_parent(parent)
    planned = make_plan(opened, resolve_slice(slice_ref, opened.text), text_only=text_only)
    if as_json:
        _print_json(plan_json(planned, context))
        return
    console = _console()
    title = f"{planned.slice.name} of {opened.name}"
    console.print(_table((title, ""), size_rows(planned, context)))
    console.print(_table(LAYER_HEAD, layer_rows(planned)))
    console.print(_table(RUNTIME_HEAD, runtime_rows(planned)))


@cli.command("slice", short_help="Write the checkpoint of one slice, or of several.")
@click.argument("parent")
@click.option(
    "--slice",
    "slice_refs",
    required=True,
    multiple=True,
    metavar="SLICE",
    help=SLICE_HELP + ". Give it again, or `published`, for a family that shares files.",
)
@click.option(
    "--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder to write."
)
@click.option("--text-only", is_flag=True, help="Drop the towers; write a gemma3n_text checkpoint.")
@click.option(
    "--max-shard-size", default="5GB", show_default=True, metavar="SIZE", help="Largest file."
)
@click.option("--base-model", metavar="REPO_ID", help="The parent's Hub id, for the model card.")
def slice_command(
    parent: str,
    slice_refs: Sequence[str],
    out: Path,
    text_only: bool,
    max_shard_size: str,
    base_model: str | None,
) -> None:
    """Write the checkpoint of one slice, or a folder of several that share what they can.

    PARENT is a checkpoint folder, a Hub id (org/name, org/name@revision) or `tiny`. DIR is new, or
    a folder of several slices to which this one is added.
    """
    from matformer_lab.checkpoint.extract import write_checkpoint
    from matformer_lab.checkpoint.family import (
        add_to_family,
        can_be_added_to,
        distinct_pieces,
        family_members,
        write_family,
    )
    from matformer_lab.checkpoint.shards import parse_size
    from matformer_lab.checkpoint.staging import check_target
    from matformer_lab.common.progress import bytes_bar
    from matformer_lab.parent.hub import looks_like_repo_id
    from matformer_lab.parent.parent import open_parent
    from matformer_lab.slicing.catalog import resolve_slices
    from matformer_lab.slicing.plan import make_plan

    max_shard_bytes = parse_size(max_shard_size)
    if base_model and not looks_like_repo_id(base_model):
        raise InputError(f"--base-model {base_model!r}: write the parent's Hub id, org/name")
    opened = open_parent(parent)
    sliced = resolve_slices(slice_refs, opened.text)
    adding = can_be_added_to(out)
    if opened.folder is None and not adding:
        check_target(None, out)  # before anything is fetched
    plans = [make_plan(opened, slice_, text_only=text_only) for slice_ in sliced]
    if opened.folder is None:
        opened = _fetched(opened, plans)
        plans = [make_plan(opened, slice_, text_only=text_only) for slice_ in sliced]
    if adding:
        members = family_members(plans, max_shard_bytes)
        with bytes_bar(f"add to {out}", sum(plan.nbytes for plan in plans)) as advance:
            added = add_to_family(members, out, base_model=base_model, advance=advance)
        click.echo(f"{out}: added {', '.join(member.name for member in added)}")
        return
    if len(plans) == 1:
        plan = plans[0]
        with bytes_bar(f"{plan.slice.name} -> {out}", plan.nbytes) as advance:
            write_checkpoint(
                plan, out, max_shard_bytes=max_shard_bytes, base_model=base_model, advance=advance
            )
        click.echo(f"{out}: {plan.slice.name}, {len(plan.tensors)} tensors, {plan.nbytes:,} bytes")
        return
    members = family_members(plans, max_shard_bytes)
    shared = sum(tensor.nbytes for piece in distinct_pieces(members) for tensor in piece.tensors)
    with bytes_bar(f"{len(members)} slices -> {out}", shared) as advance:
        write_family(members, out, base_model=base_model, advance=advance, warn=_warn)
    apart = sum(plan.nbytes for plan in plans)
    click.echo(f"{out}: {len(members)} slices, {apart:,} bytes of tensors held in {shared:,}")


def _fetched(parent: "Parent", plans: Sequence["Plan"]) -> "Parent":
    """A Hub parent with what the plans need of its weights on the disk."""
    from matformer_lab.common.progress import bytes_bar
    from matformer_lab.parent.remote import needs_of, with_needed

    with bytes_bar(f"fetch {parent.name}", needs_of(parent, plans).nbytes) as advance:
        return with_needed(parent, plans, advance)


def _warn(message: str) -> None:
    click.echo(f"warning: {message}", err=True)


@cli.command(short_help="Check that DIR is exactly the slice it claims to be.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--parent", "parent_ref", metavar="PARENT", help="Recompute every tensor from it.")
@click.option("--slice", "slice_ref", metavar="SLICE", help="Expect this slice: " + SLICE_HELP)
@click.option(
    "--against",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Compare with this checkpoint.",
)
@json_option
def verify(
    folder: Path, parent_ref: str | None, slice_ref: str | None, against: Path | None, as_json: bool
) -> None:
    """Check that DIR is exactly the slice it claims to be (exit 1 if not).

    Without --parent or --against, DIR is checked against its own manifest.
    """
    from matformer_lab.checkpoint.verify import (
        claimed_plan,
        compare_checkpoints,
        is_family,
        members_of,
        verify_alone,
        verify_checkpoint,
        verify_family,
    )
    from matformer_lab.common.progress import bytes_bar
    from matformer_lab.parent.parent import open_parent
    from matformer_lab.slicing.catalog import resolve_slice

    for given in (folder, against):
        if given and not given.is_dir():
            raise InputError(f"{given}: no such folder")
    if against and (parent_ref or slice_ref):
        raise InputError("--against compares two checkpoints; give it without --parent and --slice")
    if slice_ref and not parent_ref:
        raise InputError("--slice needs --parent, the checkpoint that it is a slice of")
    family = is_family(folder)
    if family and (against or slice_ref):
        raise InputError(f"{folder} is a family of slices; --against and --slice check one of them")
    opened = open_parent(parent_ref) if parent_ref else None
    expected = resolve_slice(slice_ref, opened.text) if opened and slice_ref else None
    if opened and opened.folder is None:
        plans = [claimed_plan(member, opened, expected) for member in members_of(folder)]
        opened = _fetched(opened, plans)
    files = folder.glob("*/*.safetensors" if family else "*.safetensors")
    size = sum({(s.st_dev, s.st_ino): s.st_size for s in map(_stat, files) if s}.values())
    with bytes_bar(f"verify {folder}", size) as advance:
        if against:
            result = compare_checkpoints(folder, against, advance=advance)
        elif family:
            result = verify_family(folder, opened, advance=advance)
        elif opened:
            result = verify_checkpoint(folder, opened, expected, advance=advance)
        else:
            result = verify_alone(folder, advance=advance)
    _report_verification(folder, result, as_json)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _report_verification(folder: Path, result: "Verification", as_json: bool) -> NoReturn:
    if as_json:
        problems = list(result.problems)
        _print_json({"ok": result.ok, "tensors": result.tensors, "problems": problems})
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


@cli.command(short_help="Score slices on tasks and draw the frontier.")
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="Sweep folder [runs/RECIPE's name].")
@click.option("--datasets", type=click.Path(path_type=Path), help="Folder laid out by dataset id.")
@click.option("--limit", type=click.FloatRange(0, min_open=True), help="As lm_eval --limit.")
@click.option("--dry-run", is_flag=True, help="List what would run, and for how long.")
@click.option("--check", type=click.IntRange(1), metavar="N", help="Rescore N items with lm-eval.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Score here, or on the Ray cluster of RAY_ADDRESS (or of this machine).",
)
@click.option(
    "--cpus-per-worker",
    type=click.IntRange(1),
    metavar="N",
    help="With ray [1 beside a GPU; else all of the smallest node].",
)
def sweep(
    recipe: str,
    out: Path | None,
    datasets: Path | None,
    limit: float | None,
    dry_run: bool,
    check: int | None,
    executor: str,
    cpus_per_worker: int | None,
) -> None:
    """Score a recipe's slices on its tasks and draw the frontier; continues where it stopped.

    RECIPE is a YAML file or the name of a shipped one: demo, published-slices, smoke-real-data.
    """
    from matformer_lab.results.results import score_rows
    from matformer_lab.sweep import sweep as sweeps
    from matformer_lab.sweep.recipe import load_recipe

    path = _recipe_path(recipe)
    given = {"datasets": datasets, "limit": limit}
    overrides = {key: value for key, value in given.items() if value is not None}
    loaded = load_recipe(path, overrides)
    folder = out or Path("runs") / path.stem
    if check and executor == "ray":
        raise InputError("--check scores on this machine; leave it out with --executor ray")
    with _executor(executor, cpus_per_worker) as chosen:
        if dry_run:
            plan = sweeps.dry_run(loaded, folder, executor=chosen)
        else:
            sweeps.run_sweep(loaded, folder, executor=chosen)
    if dry_run:
        click.echo(str(plan))
        return
    head, *rows = score_rows(folder)
    _console().print(_table(head, rows))
    if check:
        from matformer_lab.sweep.score_check import check_scores

        for checked in check_scores(loaded, folder, check):
            click.echo(str(checked))
    click.echo(f"frontier: {folder / 'frontier.png'}\npage:     {folder / 'report.html'}")


@contextmanager
def _executor(name: str, cpus_per_worker: int | None) -> Iterator["Executor"]:
    if name == "ray":
        from matformer_lab.sweep.ray_executor import ray_cluster

        with ray_cluster(cpus_per_worker, warn=_warn) as cluster:
            yield cluster
        return
    if cpus_per_worker:
        raise InputError("--cpus-per-worker goes with --executor ray")
    from matformer_lab.sweep.executor import LocalExecutor

    yield LocalExecutor()


def _recipe_path(recipe: str) -> Path:
    from matformer_lab.common.shipped import shipped_folder

    path = Path(recipe)
    shipped = shipped_folder("recipes") / f"{recipe}.yaml"
    return shipped if not path.exists() and path.name == recipe and shipped.exists() else path


@cli.command(short_help="Rebuild a finished sweep's picture and page.")
@click.argument(
    "folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--separate", nargs=2, metavar="SLICE SLICE", help="Compare two slices, paired.")
def report(folders: tuple[Path, ...], separate: tuple[str, str] | None) -> None:
    """Rebuild frontier and page of finished sweeps from their stored results; needs no model.

    --separate prints the difference of two slices for every task, its interval, and how many items
    would be needed to tell them apart.
    """
    from matformer_lab.report.report import write_report
    from matformer_lab.results.read_sweep import read_finished

    for folder in folders:
        click.echo(str(write_report(folder)))
        if separate:
            table = read_finished(folder).comparison(*separate).round(2)
            cells = table.astype("object").where(table.notna(), "").values.tolist()
            _console().print(_table(list(table.columns), [[str(c) for c in row] for row in cells]))


@cli.command(short_help="Fail (exit 1) when a slice got worse.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--baseline", required=True, type=click.Path(path_type=Path), help="Baseline file.")
@click.option("--max-drop", default=1.0, show_default=True, help="Points a slice may lose.")
@click.option("--update", is_flag=True, help="Make this sweep the baseline.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write a summary here.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML here.")
def gate(
    folder: Path,
    baseline: Path,
    max_drop: float,
    update: bool,
    markdown: Path | None,
    junit: Path | None,
) -> None:
    """Fail (exit 1) when a slice got worse than its baseline beyond noise."""
    from matformer_lab.gate.gate import run_gate

    result = run_gate(folder, baseline, max_drop, update, markdown, junit)
    click.echo(result.summary)
    sys.exit(0 if result.ok else 1)

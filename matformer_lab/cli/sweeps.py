"""Commands that score slices and judge the scores: sweep, report, gate."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from matformer_lab.cli.output import print_table, warn
from matformer_lab.common.errors import InputError

if TYPE_CHECKING:
    from matformer_lab.sweep.executors.base import Executor


@click.command(short_help="Score slices on tasks and draw the frontier.")
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
    from matformer_lab.results.files import FRONTIER_PNG, REPORT_HTML
    from matformer_lab.results.score_table import score_rows
    from matformer_lab.sweep import run
    from matformer_lab.sweep.recipe import load_recipe

    given = {"datasets": datasets, "limit": limit}
    overrides = {key: value for key, value in given.items() if value is not None}
    loaded = load_recipe(recipe, overrides)
    folder = out or Path("runs", loaded.name)
    if check and executor == "ray":
        raise InputError("--check scores on this machine; leave it out with --executor ray")
    with _executor(executor, cpus_per_worker) as chosen:
        if dry_run:
            click.echo(str(run.dry_run(loaded, folder, executor=chosen)))
            return
        run.run_sweep(loaded, folder, executor=chosen)
    head, *rows = score_rows(folder)
    print_table(head, rows)
    if check:
        from matformer_lab.sweep.score_check import check_scores

        for checked in check_scores(loaded, folder, check):
            click.echo(str(checked))
    click.echo(f"frontier: {folder / FRONTIER_PNG}\npage:     {folder / REPORT_HTML}")


@contextmanager
def _executor(name: str, cpus_per_worker: int | None) -> Iterator["Executor"]:
    if name == "ray":
        from matformer_lab.sweep.executors.ray_cluster import ray_cluster

        with ray_cluster(cpus_per_worker, warn=warn) as cluster:
            yield cluster
        return
    if cpus_per_worker:
        raise InputError("--cpus-per-worker goes with --executor ray")
    from matformer_lab.sweep.executors.local import LocalExecutor

    yield LocalExecutor()


@click.command(short_help="Rebuild a finished sweep's picture and page.")
@click.argument(
    "folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--separate", nargs=2, metavar="SLICE SLICE", help="Compare two slices, paired.")
def report(folders: tuple[Path, ...], separate: tuple[str, str] | None) -> None:
    """Rebuild frontier and page of finished sweeps from their stored results; needs no model.

    --separate prints the difference of two slices for every task, its interval, and how many items
    would be needed to tell them apart.
    """
    from matformer_lab.report.write import write_report
    from matformer_lab.results.read import read_sweep

    for folder in folders:
        click.echo(str(write_report(folder)))
        if separate:
            table = read_sweep(folder).comparison(*separate).round(2)
            cells = table.astype("object").where(table.notna(), "").values.tolist()
            print_table(list(table.columns), [[str(c) for c in row] for row in cells])


@click.command(short_help="Fail (exit 1) when a slice got worse.")
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
    from matformer_lab.gate.run import run_gate

    result = run_gate(folder, baseline, max_drop, update, markdown, junit)
    click.echo(result.summary)
    sys.exit(0 if result.ok else 1)

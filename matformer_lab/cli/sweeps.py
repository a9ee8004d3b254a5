"""Commands that score slices and evaluate the scores: sweep, report, gate."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from matformer_lab.cli.exit_codes import DONE, NO
from matformer_lab.cli.options import (
    CONFIRM_RUN_UNSAFE_CODE,
    CPUS_PER_WORKER,
    DATASETS,
    EXECUTOR,
    TRUST_TASKS,
    WORKERS,
)
from matformer_lab.cli.output import print_table, say, warn
from matformer_lab.common.errors import InputError

if TYPE_CHECKING:
    from matformer_lab.sweep.executors.base import Executor


@click.command(short_help="Score slices on tasks and draw the frontier.")
@click.argument("recipe")
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    show_default="runs/ and the recipe's name",
    help="Folder of the sweep.",
)
@DATASETS
@click.option(
    "--limit",
    metavar="N",
    type=click.FloatRange(0, min_open=True),
    help="Items to score per task, or a fraction of them below 1 (as lm_eval --limit).",
)
@click.option("--dry-run", is_flag=True, help="List what would be scored, and how long it takes.")
@click.option("--quiet", is_flag=True, help="No progress: no bar, and no line a minute elsewhere.")
@click.option(
    "--check",
    type=click.IntRange(1),
    metavar="N",
    help="Score N items again with lm-eval and compare.",
)
@TRUST_TASKS
@CONFIRM_RUN_UNSAFE_CODE
@EXECUTOR
@CPUS_PER_WORKER
@WORKERS
def sweep(
    recipe: str,
    out: Path | None,
    datasets: Path | None,
    limit: float | None,
    dry_run: bool,
    quiet: bool,
    check: int | None,
    trust_tasks: bool,
    confirm_run_unsafe_code: bool,
    executor: str,
    cpus_per_worker: int | None,
    workers: int | None,
) -> None:
    """Score a recipe's slices on its tasks and draw the frontier.

    A sweep that was interrupted continues where it stopped.

    RECIPE is a YAML file, or the name of a recipe that ships with the package: demo,
    published-slices, e4b-laptop, model-card-pt, model-card-it or smoke-real-data.
    """
    from matformer_lab.results.files import FRONTIER_PNG, REPORT_HTML
    from matformer_lab.results.score_table import score_rows
    from matformer_lab.sweep import run
    from matformer_lab.sweep.recipe import load_recipe

    given = {
        "datasets": datasets,
        "limit": limit,
        "trust_tasks": trust_tasks or None,
        "confirm_run_unsafe_code": confirm_run_unsafe_code or None,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    loaded = load_recipe(recipe, overrides)
    folder = out or Path("runs", loaded.name)
    if check and executor == "ray":
        raise InputError("`check` scores on this machine; leave it out with `executor` ray")
    with chosen_executor(executor, cpus_per_worker, workers) as chosen:
        if dry_run:
            for line in run.dry_run(loaded, folder, executor=chosen).lines:
                say(line)
            return
        run.run_sweep(loaded, folder, executor=chosen, progress=not quiet)
    head, *rows = score_rows(folder)
    print_table(head, rows)
    say("percent ± one standard error; the page compares slices item by item")
    if check:
        from matformer_lab.sweep.score_check import check_scores

        for checked in check_scores(loaded, folder, check):
            say(str(checked))
    say(f"frontier: {folder / FRONTIER_PNG}")
    say(f"page:     {folder / REPORT_HTML}")


@contextmanager
def chosen_executor(
    name: str, cpus_per_worker: int | None, workers: int | None
) -> Iterator["Executor"]:
    """The executor that `--executor` names."""
    if name == "ray":
        if workers:
            raise InputError("`workers` are this machine's; with `executor` ray: `cpus_per_worker`")
        from matformer_lab.sweep.executors.ray_executor import ray_cluster

        with ray_cluster(cpus_per_worker, warn=warn) as cluster:
            yield cluster
        return
    if cpus_per_worker:
        raise InputError("`cpus_per_worker` needs `executor` ray")
    from matformer_lab.sweep.executors.local import LocalExecutor

    yield LocalExecutor(workers)


@click.command(short_help="Rebuild the pictures and pages of finished sweeps.")
@click.argument(
    "folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--separate", nargs=2, metavar="SLICE SLICE", help="Two slices to compare, paired.")
def report(folders: tuple[Path, ...], separate: tuple[str, str] | None) -> None:
    """Rebuild the pictures and pages of finished sweeps from their stored results.

    This needs no model. DIR is the folder of a sweep. With --separate it also prints, for every
    task, the difference between two slices, its interval, and how many items would be needed to
    tell them apart.
    """
    from matformer_lab.report.write import write_report
    from matformer_lab.results.read import read_sweep

    for folder in folders:
        # First what can fail: a slice that is not there, before the pictures are drawn.
        table = read_sweep(folder).comparison(*separate).round(2) if separate else None
        say(str(write_report(folder)))
        if table is not None:
            cells = table.astype("object").where(table.notna(), "").values.tolist()
            print_table(list(table.columns), [[str(c) for c in row] for row in cells])


@click.command(short_help="Fail (exit code 1) if a slice got worse.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Baseline to compare with.",
)
@click.option(
    "--max-drop",
    default=1.0,
    show_default=True,
    metavar="POINTS",
    help="Percentage points that a slice may lose.",
)
@click.option("--update", is_flag=True, help="Make this sweep the baseline.")
@click.option(
    "--markdown",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Markdown summary to write; - for standard output.",
)
@click.option(
    "--junit", metavar="FILE", type=click.Path(path_type=Path), help="JUnit XML to write."
)
@click.option("--allow-new", is_flag=True, help="Pass slices and tasks without a baseline.")
@click.option("--allow-missing", is_flag=True, help="Pass slices and tasks missing from DIR.")
@click.option("--allow-parent", is_flag=True, help="Compare with another parent's baseline.")
def gate(
    folder: Path,
    baseline: Path,
    max_drop: float,
    update: bool,
    markdown: Path | None,
    junit: Path | None,
    allow_new: bool,
    allow_missing: bool,
    allow_parent: bool,
) -> int:
    """Fail (exit code 1) if a slice got worse than in the baseline, beyond noise.

    DIR is the folder of a finished sweep. A slice or task that only one side has fails too, unless
    a flag allows it.
    """
    from matformer_lab.gate.markdown import to_markdown
    from matformer_lab.gate.run import run_gate

    to_stdout = markdown == Path("-")
    result = run_gate(
        folder,
        baseline,
        max_drop,
        update,
        None if to_stdout else markdown,
        junit,
        allow_new=allow_new,
        allow_missing=allow_missing,
        allow_parent=allow_parent,
    )
    for line in (to_markdown(result) if to_stdout else result.summary).splitlines():
        say(line)
    return DONE if result.ok else NO

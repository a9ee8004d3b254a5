"""The main work: a recipe's slices x tasks -> stored scores -> the tables and the report.

prepare -> slices, plans, loaded tasks; jobs, each with its key     (jobs)
store   -> which jobs are done, stale or new                        (store, status)
compute -> the rest, here or on a cluster, each stored when done    (executors)
write   -> tables and report, from the store alone                  (results, report)
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.atomic import make_folder
from matformer_lab.common.files.locks import locked
from matformer_lab.common.paths import StrPath, to_path
from matformer_lab.evaluation.tasks.names import check_names
from matformer_lab.evaluation.tasks.task_files import read_task_folders
from matformer_lab.results.files import STORE, samples_file
from matformer_lab.results.own_files import OwnFiles, disk_errors, own_files, remove_leftovers
from matformer_lab.results.published import with_published
from matformer_lab.results.tables.description import describe
from matformer_lab.results.tables.recipe_as_run import mixed_modes
from matformer_lab.results.tables.rows import result_rows
from matformer_lab.results.write import SamplesTable, write_tables
from matformer_lab.sweep.bar import SweepBar, say_beforehand
from matformer_lab.sweep.executors.base import Executor
from matformer_lab.sweep.executors.local import LocalExecutor
from matformer_lab.sweep.jobs import Job, Prepared, prepare
from matformer_lab.sweep.passes import pass_cost, passes
from matformer_lab.sweep.recipe import Recipe, load_recipe
from matformer_lab.sweep.scores.pass_journals import journals_folder, remove_journals
from matformer_lab.sweep.scores.provenance import as_run_yaml
from matformer_lab.sweep.scores.store import Store
from matformer_lab.sweep.status import DryRun, statuses_of
from matformer_lab.sweep.weights_check import check_weights

_WORTH_A_LINE: Final = 1e12
"""Of `pass_cost`: some 40 s for the embedded parent, half as long for larger ones."""


def dry_run(recipe: Recipe | StrPath, out: StrPath, *, executor: Executor | None = None) -> DryRun:
    """What `run_sweep` would compute, and how long that would take. Writes nothing.

    Args:
        recipe: As for `run_sweep`.
        out: The sweep's folder, which need not exist.
        executor: As for `run_sweep`.

    Returns:
        The state of every job; `print` shows a line for each.

    Raises:
        InputError: When the recipe, or anything it names, is at fault.

    Examples:
        >>> import matformer_lab as ml
        >>> recipe = ml.parse_recipe(
        ...     {"parent": "tiny", "slices": ["e2b"], "tasks": ["tiny_boolq"], "limit": 4}
        ... )
        >>> print(ml.dry_run(recipe, "runs/planned"))
        new    e2b  tiny_boolq
        1 of 1 scores to compute; time: ...
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    out = to_path(out)
    own_files(out).check()
    executor = executor or LocalExecutor()
    prepared = _prepared(recipe, executor)
    found = statuses_of(prepared.jobs, Store(out / STORE))
    if found.seconds is not None:
        return found
    return replace(
        found, estimate=executor.estimate(prepared, [each.job for each in found.pending])
    )


def run_sweep(
    recipe: Recipe | StrPath,
    out: StrPath,
    *,
    executor: Executor | None = None,
    report: bool = True,
    progress: bool = True,
) -> Path:
    """Run a sweep into the folder `out`, continuing what it already holds.

    After a KeyboardInterrupt, or a kill at any moment, the folder holds every finished score, and
    the same call continues from there.

    Args:
        recipe: A recipe, a recipe file, or the name of a shipped recipe.
        out: The sweep's folder: a new one, an empty one, or that of an earlier sweep.
        executor: Where the scores are computed; None: in this process.
        report: Whether to write the report too (`write_report`).
        progress: Whether to show a bar on a terminal or in a notebook, and a line a minute on
            stderr elsewhere.

    Returns:
        `out` as a path, for `load_results`, `read_sweep`, `write_report` or `run_gate`.

    Raises:
        InputError: When the recipe, or anything it names, is at fault, before anything is written;
            when `out` cannot be used; or when a score cannot be computed.

    Examples:
        >>> import matformer_lab as ml
        >>> recipe = ml.parse_recipe(
        ...     {"parent": "tiny", "slices": ["e2b"], "tasks": ["tiny_boolq"], "limit": 4}
        ... )
        >>> ml.run_sweep(recipe, "runs/example").name
        'example'
    """
    out = to_path(out)
    _usable(out)
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    executor = executor or LocalExecutor()
    prepared = _prepared(recipe, executor)
    places = [samples_file(job.slice.slug, job.task.name) for job in prepared.jobs]
    _usable(out, places)
    store = Store(out / STORE)
    if any(store.get(job.key) is None for job in prepared.jobs):
        prepared = executor.fetched(prepared)
        check_weights(prepared)
    with sweep_folder(out, places) as own:
        _compute(prepared, store, executor, progress)
        _write(prepared, store, own)
        if report:
            from matformer_lab.report.write import write_report

            write_report(out)
    return out


def _prepared(recipe: Recipe, executor: Executor) -> Prepared:
    """The recipe opened and checked; a misspelt task is found before anything slow is done."""
    own = read_task_folders(recipe.task_folder_paths)
    check_names((task.name for task in recipe.tasks), own)
    return prepare(recipe, device=executor.device(recipe))


def _compute(prepared: Prepared, store: Store, executor: Executor, progress: bool) -> None:
    """Score every job whose score is not in the store, and store each as it finishes."""
    pending = [job for job in prepared.jobs if store.get(job.key) is None]
    if not pending:
        return
    if progress:
        _say_how_long(prepared, pending, executor)
    with SweepBar(pending, show=progress) as bar:
        journals = journals_folder(store.folder)
        with closing(executor.scores(prepared, pending, bar.advance, journals)) as scores:
            for scored in scores:
                with disk_errors(store.folder.parent):
                    store.put(scored.key, scored.score, scored.run)
                bar.stored(scored.key)
        remove_journals(journals)


def _say_how_long(prepared: Prepared, pending: Sequence[Job], executor: Executor) -> None:
    """A line on stderr before a long sweep begins."""
    if sum(map(pass_cost, passes(pending))) < _WORTH_A_LINE:
        return
    if (found := executor.estimate(prepared, pending)) is not None:
        scores = f"{len(pending)} score{'s' * (len(pending) > 1)}"
        say_beforehand(f"{scores} to compute: {found}")


def _write(prepared: Prepared, store: Store, own: OwnFiles) -> None:
    """Write the tables of a sweep whose scores are all in the store."""
    rows: list[dict[str, Any]] = []
    settings = {
        "dtype": prepared.dtype.name,
        "device": prepared.device.partition(":")[0],
        "scorer": prepared.recipe.scorer,
        "limit": prepared.recipe.limit,
        "seed": prepared.recipe.seed,
    }
    order = {sized.name: position for position, sized in enumerate(prepared.sized)}
    device_names: set[str] = set()
    budgets: dict[str, list[Mapping[str, Any]]] = {}
    for job in prepared.jobs:
        entry = store.get(job.key)
        if entry is None:
            raise InputError(
                f"{store.folder}: the score of {job.name} on {job.task.name} was removed or "
                "damaged meanwhile; run again"
            )
        device_names.add(entry.run.device_name)
        for budget in entry.run.budgets or ():
            if budget not in budgets.setdefault(job.task.name, []):
                budgets[job.task.name].append(budget)
        rows += result_rows(job.sized, entry.metrics, job.task.metric, settings)
    for line in mixed_modes({"budgets": budgets}):
        warnings.warn(line, stacklevel=2)
    rows.sort(key=lambda row: order[row["slice"]])  # stable: tasks keep the recipe's order
    description = describe(prepared.parent, prepared.sized)
    task_names = {task.label: task.name for task in prepared.recipe.tasks}
    write_tables(
        own,
        rows=with_published(rows, description, task_names),
        description=description,
        recipe=as_run_yaml(
            prepared.recipe,
            prepared.parent,
            [sized.slice for sized in prepared.sized],
            prepared.tasks,
            tokenizer=prepared.tokenizer,
            tokenizer_sha256=prepared.tokenizer_sha256,
            device=prepared.device,
            dtype=prepared.dtype,
            device_names=sorted(device_names),
            budgets=budgets,
        ),
        samples=(
            SamplesTable(samples_file(job.slice.slug, job.task.name), _samples(job, store))
            for job in prepared.jobs
        ),
    )


def _samples(job: Job, store: Store) -> Any:
    import pyarrow as pa

    table = store.items(job.key)
    for name, value in (("task", job.task.name), ("slice", job.name)):
        table = table.add_column(0, name, pa.array([value] * len(table), pa.string()))
    return table


def _usable(out: Path, places: Iterable[Path] = ()) -> OwnFiles:
    """The tool's own files in `out`, where it is new, empty or a sweep's and nothing is in the way.

    Args:
        out: The sweep's folder.
        places: Where the sweep writes besides its tables and report.

    Raises:
        InputError: When a sweep cannot be written there.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: exists and is not a folder")
    own = own_files(out)
    own.check(places)
    return own


@contextmanager
def sweep_folder(out: Path, places: Iterable[Path] = ()) -> Iterator[OwnFiles]:
    """The folder of a sweep, made where it is not there, for one process at a time.

    Args:
        out: A new folder, an empty one, or that of an earlier sweep.
        places: Where is to be written besides a sweep's tables and report.

    Yields:
        The tool's own files in it.

    Raises:
        InputError: When a sweep cannot be written there, or one is running there.
    """
    places = tuple(places)
    _usable(out, places)
    with _locked(out):
        own = _usable(out, places)  # another sweep may just have finished here
        with disk_errors(out):
            own.save()
            remove_leftovers(out)
        yield own


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One sweep in a folder at a time."""
    try:
        make_folder(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be created ({os.strerror(error.errno or 0)})") from None
    busy = f"{out}: another sweep is running in this folder; wait for it or use another folder"
    with locked(out, busy):
        yield

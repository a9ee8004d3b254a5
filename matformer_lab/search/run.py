"""The search: a recipe's budgets -> measured slices -> one slice for each -> its proof.

prepare -> space, budgets, calibration sets, all checked            (prepared, space, budget, costs)
scan    -> one-step changes, and random slices, measured            (scan, measure)
refine  -> surrogate, its best, measured; a race at the end         (surrogate, propose, refine)
prove   -> a sweep over items that the search has not seen          (sweep.run)
write   -> slices.yaml, search.json, the page                       (slices_file, record, page)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matformer_lab.common.paths import StrPath, to_path
from matformer_lab.common.version import __version__
from matformer_lab.evaluation.tasks.loading import LoadedTask
from matformer_lab.results.files import SEARCH_HTML, SEARCH_JSON, SLICES_YAML, STORE
from matformer_lab.results.own_files import disk_errors, own_files
from matformer_lab.search.measure import Measurements
from matformer_lab.search.method.draw import random_slices
from matformer_lab.search.method.refine import Refined, refine
from matformer_lab.search.method.runtimes import refused
from matformer_lab.search.method.scan import bases, first_design, layer_forwards
from matformer_lab.search.method.space import Pattern, distance, slice_of
from matformer_lab.search.prepared import PreparedSearch, prepare_search
from matformer_lab.search.record import (
    BudgetRecord,
    CandidateRecord,
    CostRecord,
    LimitRecord,
    MeasuredRecord,
    ScanRecord,
    SearchRecord,
)
from matformer_lab.search.result import SearchResult
from matformer_lab.search.slices_file import slices_yaml
from matformer_lab.slicing.slice import Slice
from matformer_lab.statistics.outcomes import Floats
from matformer_lab.sweep.executors.base import Executor
from matformer_lab.sweep.executors.local import LocalExecutor
from matformer_lab.sweep.recipe import Recipe, load_recipe
from matformer_lab.sweep.run import run_sweep, sweep_folder
from matformer_lab.sweep.scores.store import Store


def run_search(
    recipe: Recipe | StrPath,
    out: StrPath,
    *,
    executor: Executor | None = None,
    progress: bool = True,
) -> SearchResult:
    """Find the best slices of a recipe's budgets, and prove them on items not used for that.

    After a KeyboardInterrupt, or a kill at any moment, the same call continues without scoring
    anything again.

    Args:
        recipe: With a `search` block; a recipe, a file, or the name of a shipped recipe.
        out: The folder: a new one, an empty one, or that of an earlier search or sweep. It becomes
            the folder of the sweep that proves the slices, with `slices.yaml`, `search.json` and
            `search.html` beside it.
        executor: Where scores are computed; None: in this process.
        progress: Whether to show a bar on a terminal or in a notebook.

    Returns:
        What was found.

    Raises:
        InputError: When the recipe, or anything it names, is at fault, before anything is written;
            when `out` cannot be used; or when a score cannot be computed.

    Examples:
        >>> from matformer_lab.search import run_search
        >>> run_search("search-demo", "runs/search").found()  # doctest: +SKIP
    """
    out = to_path(out)
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    executor = executor or LocalExecutor()
    own_files(out).check([SLICES_YAML, SEARCH_JSON, SEARCH_HTML])
    search = prepare_search(recipe, device=executor.device(recipe))
    began = time.monotonic()
    block = search.block
    with sweep_folder(out), executor.session(search.widest) as session:
        measured = Measurements(
            search.sets,
            Store(out / STORE),
            session,
            limit=block.evaluations,
            deadline=None if block.minutes is None else began + 60 * block.minutes,
            progress=progress,
        )
        scan = planned_scan(search)
        measured.measure(scan)
        refined = refine(search.space, search.budgets, measured, nested=block.nested)
    searched = time.monotonic() - began
    _check_runtimes(search, refined)
    found, same = _named(search, refined)
    drawn = _drawn(search)
    proof = search.proof_recipe(
        {name: slice_of(pattern, name) for name, pattern in found.items()},
        [slice_ for each in drawn.values() for slice_ in each],
    )
    run_sweep(proof, out, executor=executor, progress=progress)
    proven = time.monotonic() - began - searched
    record = _record(search, measured, refined, same, drawn, scan, searched, proven)
    _write(search, out, record, found)
    return SearchResult(out, record)


def planned_scan(search: PreparedSearch) -> tuple[Pattern, ...]:
    """The slices that a search measures first."""
    block = search.block
    return first_design(search.space, search.budgets, block.evaluations, block.seed)


@dataclass(frozen=True)
class SearchPlan:
    """What a search would do, as `plan_search` returns it; `print` shows it.

    Attributes:
        budgets: Names of the slices that would be found.
        scan: Slices of the first scan.
        evaluations: All evaluations, the most there may be.
        done: How many of the scan's the store already has.
        layer_forwards: Layers that the scan computes, shared ones once.
        unshared: The same if nothing were shared.
        items: Items of a calibration set.
        proof_slices: Slices of the proof, the most there may be.
        proof_items: Items of the proof.
        seconds: Estimated; None while nothing comparable has run.
    """

    budgets: tuple[str, ...]
    scan: int
    evaluations: int
    done: int
    layer_forwards: int
    unshared: int
    items: int
    proof_slices: int
    proof_items: int
    seconds: float | None

    def __str__(self) -> str:
        time_ = "unknown until something has run"
        if self.seconds is not None:
            time_ = f"about {max(1, round(self.seconds / 60))} min"
        return "\n".join(
            (
                f"find    {', '.join(self.budgets)}",
                f"scan    {self.scan} slices ({self.done} done), {self.items:,} items; "
                f"{self.layer_forwards:,} layer forwards ({self.unshared:,} if none were shared)",
                f"search  at most {self.evaluations} evaluations, the scan's included",
                f"prove   at most {self.proof_slices} slices, {self.proof_items:,} other items",
                f"time    {time_}",
            )
        )


def plan_search(
    recipe: Recipe | StrPath, out: StrPath, *, executor: Executor | None = None
) -> SearchPlan:
    """What `run_search` would do, and how long that would take. Writes nothing.

    Args:
        recipe: As for `run_search`.
        out: The search's folder, which need not exist.
        executor: As for `run_search`.

    Raises:
        InputError: When the recipe, or anything it names, is at fault.
    """
    out = to_path(out)
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    executor = executor or LocalExecutor()
    own_files(out).check([SLICES_YAML, SEARCH_JSON, SEARCH_HTML])
    search = prepare_search(recipe, device=executor.device(recipe))
    scan = planned_scan(search)
    store = Store(out / STORE)
    measured = Measurements(search.sets, store, executor, search.block.evaluations)
    done = sum(store.get(measured.job(pattern).key) is not None for pattern in scan)
    rivals = {slice_.name for each in search.compared.values() for slice_ in each}
    budgets = len(search.budgets)
    proof_items = sum(task.items for task in search.proof)
    proof_slices = 1 + budgets * (1 + search.block.random) + len(rivals)
    return SearchPlan(
        budgets=tuple(budget.name for budget in search.budgets),
        scan=len(scan),
        evaluations=search.block.evaluations,
        done=done,
        layer_forwards=layer_forwards(scan),
        unshared=sum(len(pattern) - pattern.count(0) for pattern in scan),
        items=measured.tasks[0].items,
        proof_slices=proof_slices,
        proof_items=proof_items,
        seconds=_seconds(measured, search, len(scan) - done, proof_slices),
    )


def _seconds(
    measured: Measurements, search: PreparedSearch, scan: int, proof_slices: int
) -> float | None:
    """Estimated from what the store has of this device and scorer."""
    rates = [
        entry.run.seconds / entry.run.cost
        for entry in measured.store.entries()
        if entry.run.cost and entry.key["device"] == measured.sets[0].device.partition(":")[0]
    ]
    if not rates:
        return None
    rate = sorted(rates)[len(rates) // 2]
    half = measured.job(search.space.at(search.space.widths // 2))
    chars = sum(task.prompt_chars for task in search.proof)
    rest = scan + search.block.evaluations - len(planned_scan(search))
    return rate * half.sizes.effective * (half.task.prompt_chars * rest + chars * proof_slices)


def _check_runtimes(search: PreparedSearch, refined: Refined) -> None:
    for pattern in refined.best:
        for verdict in refused(search.parent, pattern, search.block.runtimes):
            raise AssertionError(f"{verdict.runtime} {verdict.verdict}: {verdict.why}")


def _named(search: PreparedSearch, refined: Refined) -> tuple[dict[str, Pattern], dict[str, str]]:
    """The found slices by name, and the budgets whose slice a smaller budget already has."""
    found: dict[str, Pattern] = {}
    same: dict[str, str] = {}
    for budget, pattern in zip(search.budgets, refined.best, strict=True):
        other = next((name for name, each in found.items() if each == pattern), None)
        if other is None:
            found[budget.name] = pattern
        else:
            same[budget.name] = other
    return found, same


def _drawn(search: PreparedSearch) -> dict[str, tuple[Slice, ...]]:
    """Random slices for each budget."""
    block = search.block
    return {
        budget.name: tuple(
            slice_of(pattern, f"random-{budget.name.removeprefix('best-')}-{number}")
            for number, pattern in enumerate(
                random_slices(search.space, budget, block.random, block.seed, budget.name)
            )
        )
        for budget in search.budgets
    }


def _record(
    search: PreparedSearch,
    measured: Measurements,
    refined: Refined,
    same: Mapping[str, str],
    drawn: Mapping[str, Sequence[Slice]],
    scan: Sequence[Pattern],
    searched: float,
    proven: float,
) -> SearchRecord:
    space, values = search.space, measured.values
    kept = measured.task_means()
    budgets = [
        BudgetRecord(
            name=budget.name,
            limits=tuple(
                LimitRecord(
                    kind=limit.kind,
                    written=limit.written,
                    most=limit.most,
                    taken=limit.costs.of(pattern),
                )
                for limit in budget.limits
            ),
            pattern=pattern,
            effective=budget.parameters.of(pattern),
            predicted=refined.surrogate.predict(pattern),
            measured=values.get(pattern),
            same_as=same.get(budget.name),
            published=tuple(slice_.name for slice_ in search.compared[budget.name]),
            random=tuple(slice_.name for slice_ in drawn[budget.name]),
        )
        for budget, pattern in zip(search.budgets, refined.best, strict=True)
    ]
    split = {f"set {number}": _places(each.tasks) for number, each in enumerate(search.sets)}
    return SearchRecord(
        version=__version__,
        parent=search.recipe.parent,
        parent_name=search.parent.name,
        fingerprint=search.parent.fingerprint,
        settings=search.recipe.model_dump(mode="json", exclude={"as_run", "split"}),
        choices=space.choices,
        skip_sets=None
        if space.skip_sets is None
        else tuple(tuple(sorted(each)) for each in space.skip_sets),
        uniform=space.uniform,
        nested=search.block.nested,
        tasks=tuple(task.name for task in search.recipe.tasks),
        split={**split, "proof": _places(search.proof)},
        budgets=tuple(budgets),
        measured=tuple(
            MeasuredRecord(pattern=pattern, objective=value, tasks=kept[pattern])
            for pattern, value in values.items()
        ),
        scan=tuple(_scan_rows(search, measured)),
        candidates=tuple(
            CandidateRecord(
                budget=each.budget,
                pattern=each.pattern,
                predicted=each.predicted,
                measured=each.measured,
                round=each.round,
            )
            for each in refined.candidates
        ),
        link=(refined.surrogate.link,) * len(budgets),
        rank_correlation=rank_correlation(
            [each.predicted for each in refined.candidates],
            [each.measured for each in refined.candidates],
        ),
        cost=CostRecord(
            evaluations=measured.done,
            layer_forwards=layer_forwards(list(measured.found[0])),
            unshared=sum(len(pattern) - pattern.count(0) for pattern in measured.found[0]),
            search_seconds=searched,
            proof_seconds=proven,
        ),
    )


def _scan_rows(search: PreparedSearch, measured: Measurements) -> list[ScanRecord]:
    rows = []
    for base in bases(search.space):
        if base not in measured.found[0]:
            continue
        name = "full" if base == search.space.full else "middle"
        for pattern in measured.found[0]:
            if distance(base, pattern) != 1:
                continue
            (layer,) = (k for k, width in enumerate(pattern) if width != base[k])
            mean, error = measured.difference(pattern, base)
            rows.append(
                ScanRecord(
                    base=name, layer=layer, width=pattern[layer], difference=mean, stderr=error
                )
            )
    return rows


def rank_correlation(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float | None:
    """Spearman's rank correlation; None for fewer than three pairs, or where one side is flat."""
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def _places(tasks: Sequence[LoadedTask]) -> dict[str, list[int]]:
    return {leaf: places for task in tasks for leaf, places in (task.chosen or {}).items()}


def _write(
    search: PreparedSearch, out: Path, record: SearchRecord, found: Mapping[str, Pattern]
) -> None:
    from matformer_lab.search.page import render

    descriptions = {
        budget.name: f"{budget.effective:,} effective parameters, found for "
        + ", ".join(f"{limit.kind} {limit.written}" for limit in budget.limits)
        for budget in record.budgets
    }
    text = slices_yaml(
        search.recipe.parent,
        search.parent.text,
        found,
        descriptions,
        [
            f"Found by matformer-lab {__version__} search with {record.cost.evaluations} "
            f"evaluations on {', '.join(record.tasks)}.",
            f"Parent {search.parent.name}, fingerprint {search.parent.fingerprint}.",
            "What they score on items that the search has not seen: results.csv, search.html.",
        ],
    )
    own = own_files(out, is_sweep=True)
    with disk_errors(out), own.new_files() as new:
        new.add(SEARCH_HTML, render(SearchResult(out, record)).encode())
        new.add(SLICES_YAML, text.encode())
        new.add(SEARCH_JSON, (record.model_dump_json(indent=1) + "\n").encode())
        new.publish()

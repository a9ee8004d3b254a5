"""`search` against optuna's TPE and NSGA-II and against random slices, at equal evaluations.

    pip install optuna
    python benchmarks/search.py FOLDER [--budget NAME ...] [--against tpe nsga2 random]

FOLDER is the folder of a finished search; its store is used, so that nothing is scored twice. Every
rival gets as many evaluations as that search took, on the same calibration items, for one budget
at a time (a search shares them over its budgets, and NSGA-II over all sizes). Slices that a sampler
proposes outside the budget are narrowed, or widened, at random until they use it up, so that no
evaluation is lost. The best by the calibration items of each then meet on the proof items.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matformer_lab.results.files import STORE
from matformer_lab.results.read import read_sweep
from matformer_lab.search.measure import Measurements
from matformer_lab.search.method.budget import Budget
from matformer_lab.search.method.draw import fitted, random_slices
from matformer_lab.search.method.space import Pattern, entry_of, slice_of
from matformer_lab.search.prepared import PreparedSearch, prepare_search
from matformer_lab.search.result import SearchResult, read_search
from matformer_lab.statistics.study import AVERAGE
from matformer_lab.sweep.executors.base import Executor
from matformer_lab.sweep.executors.local import LocalExecutor
from matformer_lab.sweep.recipe import parse_recipe
from matformer_lab.sweep.run import run_sweep
from matformer_lab.sweep.scores.store import Store

BATCH = 8
"""Proposals at a time, so that they share a pass: samplers learn from the batch as a whole."""


def main() -> None:
    arguments = parse()
    done = read_search(arguments.folder)
    settings = {key: value for key, value in done.record.settings.items() if value is not None}
    search = prepare_search(parse_recipe(settings))
    evaluations = arguments.evaluations or done.record.cost.evaluations
    store = Store(arguments.folder / STORE)
    with LocalExecutor().session(search.widest) as executor:
        compete(done, search, executor, store, evaluations, arguments)


def compete(
    done: SearchResult,
    search: PreparedSearch,
    executor: Executor,
    store: Store,
    evaluations: int,
    arguments: argparse.Namespace,
) -> None:
    for budget in search.budgets:
        if arguments.budget and budget.name not in arguments.budget:
            continue
        best: dict[str, Pattern] = {}
        for rival in arguments.against:
            measured = Measurements(search.sets[:1], store, executor, limit=10**9)
            best[rival] = RIVALS[rival](search, budget, measured, evaluations)
            value = measured.values[best[rival]]
            print(f"{budget.name}: {rival} {value:.4f} after {evaluations} evaluations", flush=True)
        prove(done, search, budget, best, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of a finished search")
    parser.add_argument("--budget", nargs="*", help="names (best-...); left out: all")
    parser.add_argument("--against", nargs="+", default=["tpe", "nsga2", "random"], choices=RIVALS)
    parser.add_argument("--evaluations", type=int, help="left out: as many as the search took")
    parser.add_argument("--proof", type=Path, help="folder of the proof; left out: beside FOLDER")
    return parser.parse_args()


def tpe(search: PreparedSearch, budget: Budget, measured: Measurements, count: int) -> Pattern:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=0, multivariate=True, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def tell(trial: Any, pattern: Pattern, value: float) -> None:
        """That the slice that was measured has this value, not the one that did not fit."""
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        params = {f"layer {layer}": width for layer, width in enumerate(pattern)}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=trial.distributions, value=value)
        )

    return sampled(study, search, budget, measured, count, tell)


def nsga2(search: PreparedSearch, budget: Budget, measured: Measurements, count: int) -> Pattern:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.NSGAIISampler(seed=0, population_size=32)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    def tell(trial: Any, pattern: Pattern, value: float) -> None:
        study.tell(trial, (value, budget.parameters.of(pattern)))

    return sampled(study, search, budget, measured, count, tell)


def sampled(
    study: Any,
    search: PreparedSearch,
    budget: Budget,
    measured: Measurements,
    count: int,
    tell: Callable[[Any, Pattern, float], None],
) -> Pattern:
    rng = random.Random(0)
    seen: list[Pattern] = []
    while len(seen) < count:
        trials = [study.ask() for _ in range(min(BATCH, count - len(seen)))]
        patterns = []
        for trial in trials:
            asked = tuple(
                trial.suggest_categorical(f"layer {layer}", list(choices))
                for layer, choices in enumerate(search.space.choices)
            )
            patterns.append(fitted(search.space, budget, asked, rng) or asked)
        measured.measure(patterns)
        for trial, pattern in zip(trials, patterns, strict=True):
            tell(trial, pattern, measured.values[pattern])
        seen += patterns
    return best_of(seen, budget, measured)


def at_random(
    search: PreparedSearch, budget: Budget, measured: Measurements, count: int
) -> Pattern:
    drawn = random_slices(search.space, budget, count, 1, budget.name)
    measured.measure(drawn)
    return best_of(drawn, budget, measured)


def best_of(patterns: Sequence[Pattern], budget: Budget, measured: Measurements) -> Pattern:
    values = measured.values
    return max((each for each in patterns if budget.holds(each)), key=values.__getitem__)


def prove(
    done: SearchResult,
    search: PreparedSearch,
    budget: Budget,
    best: dict[str, Pattern],
    arguments: argparse.Namespace,
) -> None:
    """All of them on the proof items, which none of them has seen."""
    (record,) = (each for each in done.record.budgets if each.name == budget.name)
    slices = {"search": slice_of(record.pattern, "search")}
    slices |= {name: slice_of(pattern, name) for name, pattern in best.items()}
    recipe = search.proof_recipe({}, []).model_copy(
        update={"slices": tuple(entry_of(slice_) for slice_ in slices.values())}
    )
    folder = arguments.proof or arguments.folder.with_name(f"{arguments.folder.name}-rivals")
    sweep = read_sweep(run_sweep(recipe, folder / budget.name))
    panel = {each.name: each for each in sweep.panels}.get(AVERAGE) or sweep.panels[0]
    for name in best:
        found = panel.compare("search", name)
        print(
            f"{budget.name}: search {100 * panel.values[panel.index('search')]:.1f}, {name} "
            f"{100 * panel.values[panel.index(name)]:.1f}: {100 * found.difference:+.1f} "
            f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]",
            flush=True,
        )


RIVALS = {"tpe": tpe, "nsga2": nsga2, "random": at_random}

if __name__ == "__main__":
    main()

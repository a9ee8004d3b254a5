"""The command that finds the best slices for budgets: search."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matformer_lab.cli.options import (
    CONFIRM_RUN_UNSAFE_CODE,
    CPUS_PER_WORKER,
    DATASETS,
    EXECUTOR,
    TRUST_TASKS,
    WORKERS,
)
from matformer_lab.cli.output import print_table, say
from matformer_lab.cli.sweeps import chosen_executor
from matformer_lab.common.errors import InputError

if TYPE_CHECKING:
    from matformer_lab.search.result import SearchResult
    from matformer_lab.sweep.recipe import Recipe

_TINY_TASKS = ("tiny_hellaswag", "tiny_boolq", "tiny_mmlu")


@click.command(short_help="Find the best slices for budgets, and prove them.")
@click.argument("source", metavar="RECIPE|PARENT")
@click.option("--max-params", multiple=True, metavar="N", help="Effective parameters: 3.0B.")
@click.option("--max-bytes", multiple=True, metavar="SIZE", help="Of the checkpoint: 3GB.")
@click.option(
    "--max-accelerator-bytes",
    multiple=True,
    metavar="SIZE",
    help="Weights on the accelerator and K/V of --context tokens: 4GB.",
)
@click.option("--max-flops", multiple=True, metavar="N", help="Operations a token: 4.5G.")
@click.option(
    "--context", type=click.IntRange(1), metavar="TOKENS", help="In the K/V cache (4096)."
)
@click.option("--text-only", is_flag=True, help="Count the bytes of the text-only checkpoint.")
@click.option("--widths", metavar="W,W,...", help="FFN widths to choose from: 1/2,3/4,full.")
@click.option("--skip", type=click.Choice(["none", "any"]), help="Layers that may be skipped.")
@click.option("--runtime", multiple=True, metavar="NAME", help="Must load the result: llama.cpp.")
@click.option("--nested", is_flag=True, help="Every smaller result lies within the larger ones.")
@click.option("--evaluations", type=click.IntRange(1), metavar="N", help="Most slices to score.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    metavar="M",
    help="Stop searching after so long; the proof follows.",
)
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path),
              show_default="runs/ and the recipe's or parent's name",
              help="Folder of the search.")  # fmt: skip
@DATASETS
@click.option("--dry-run", is_flag=True, help="Say what would be scored, and how long it takes.")
@TRUST_TASKS
@CONFIRM_RUN_UNSAFE_CODE
@EXECUTOR
@CPUS_PER_WORKER
@WORKERS
def search(
    source: str,
    max_params: tuple[str, ...],
    max_bytes: tuple[str, ...],
    max_accelerator_bytes: tuple[str, ...],
    max_flops: tuple[str, ...],
    context: int | None,
    text_only: bool,
    widths: str | None,
    skip: str | None,
    runtime: tuple[str, ...],
    nested: bool,
    evaluations: int | None,
    minutes: float | None,
    out: Path | None,
    datasets: Path | None,
    dry_run: bool,
    trust_tasks: bool,
    confirm_run_unsafe_code: bool,
    executor: str,
    cpus_per_worker: int | None,
    workers: int | None,
) -> None:
    """Find the best slice for each budget, and prove it on items that the search has not seen.

    RECIPE is a YAML file with a `search` block, or the name of a recipe that ships with the
    package: search-demo or search-e4b. PARENT is what `plan` takes; its budgets are options, each
    each of which may be given several times. Options take the place of a recipe's keys.

    A search that was interrupted continues where it stopped. `slices.yaml` in its folder is taken
    wherever a slice is.
    """
    from matformer_lab.search import run

    budgets: list[dict[str, Any]] = [
        {kind: amount, **({"text_only": True} if text_only and kind == "max_bytes" else {})}
        for kind, amounts in (
            ("max_params", max_params),
            ("max_bytes", max_bytes),
            ("max_accelerator_bytes", max_accelerator_bytes),
            ("max_flops", max_flops),
        )
        for amount in amounts
    ]
    if context is not None:
        if not max_accelerator_bytes:
            raise InputError("`context` needs `max_accelerator_bytes`: only there it counts")
        budgets = [{**budget, "context": context} for budget in budgets]
    if text_only and not max_bytes:
        raise InputError("`text_only` needs `max_bytes`: only there it counts")
    given: dict[str, Any] = {
        "budgets": budgets or None,
        "widths": widths.split(",") if widths else None,
        "skip": skip,
        "runtimes": list(runtime) or None,
        "nested": nested or None,
        "evaluations": evaluations,
        "minutes": minutes,
    }
    block = {key: value for key, value in given.items() if value is not None}
    allowed = {"trust_tasks": trust_tasks, "confirm_run_unsafe_code": confirm_run_unsafe_code}
    recipe = _recipe(source, block, datasets, {key: True for key, on in allowed.items() if on})
    folder = out or Path("runs", recipe.name if recipe.name != "recipe" else _folder_name(source))
    with chosen_executor(executor, cpus_per_worker, workers) as chosen:
        if dry_run:
            for line in str(run.plan_search(recipe, folder, executor=chosen)).split("\n"):
                say(line)
            return
        result = run.run_search(recipe, folder, executor=chosen)
    _print(result)


def _recipe(
    source: str, block: dict[str, Any], datasets: Path | None, allowed: dict[str, Any]
) -> "Recipe":
    """The recipe that is named, with the options' values in its `search`; else one of a parent."""
    from matformer_lab.common.shipped import shipped_folder
    from matformer_lab.parent.opening import TINY
    from matformer_lab.sweep.recipe import load_recipe, parse_recipe, read_recipe_file

    overrides: dict[str, Any] = {} if datasets is None else {"datasets": datasets}
    overrides |= allowed
    if source.lower().endswith((".yaml", ".yml")) or (
        not Path(source).exists() and (shipped_folder("recipes") / f"{source}.yaml").exists()
    ):
        written = read_recipe_file(source).get("search") or {}
        if block and isinstance(written, dict):
            overrides["search"] = {**written, **block}
        return load_recipe(source, overrides)
    values: dict[str, Any] = {"parent": source, "search": block, **allowed}
    if source == TINY:
        values |= {"tasks": list(_TINY_TASKS), "dtype": "float32", "apply_chat_template": False}
    if datasets is not None:
        values["datasets"] = str(datasets.absolute())
    return parse_recipe(values)


def _folder_name(source: str) -> str:
    return "search-" + (Path(source.partition("@")[0]).name or "parent")


def _print(result: "SearchResult") -> None:
    rows = []
    for row in result.found().to_dict("records"):
        rival = "none"
        if isinstance(row["published"], str):
            rival = (
                f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}] "
                f"{row['published']}"
            )
        rows.append(
            [
                str(row["slice"]),
                str(row["budget"]),
                f"{row['effective']:,}",
                f"{row['score']:.1f}",
                rival,
                f"{row['below_parent']:.1f}",
            ]
        )
    print_table(
        ["slice", "budget", "effective", "score", "against published", "below parent"], rows
    )
    for line in notes(result):
        say(line)
    say(f"slices: {result.slices_file}")
    say(f"page:   {result.page}")


def notes(result: "SearchResult") -> Sequence[str]:
    """What a user should know besides the table."""
    record = result.record
    items = result.panel.n
    lines = [
        f"{record.cost.evaluations} evaluations; proven on {items:,} items that the search has not "
        "seen, all intervals hold together with 95 % confidence"
    ]
    lines += [
        f"{budget.name}: nothing larger was better than {budget.same_as}"
        for budget in record.budgets
        if budget.same_as
    ]
    return lines

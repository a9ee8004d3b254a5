"""The whole search on a small random parent: found, proven, continued; and every refusal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_parent
from matformer_lab.results.files import STORE
from matformer_lab.search import SearchResult, plan_search, read_search, run_search
from matformer_lab.search.measure import Measurements
from matformer_lab.search.method.space import pattern_of
from matformer_lab.search.prepared import prepare_search
from matformer_lab.search.run import planned_scan
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of
from matformer_lab.sweep.executors.local import LocalExecutor
from matformer_lab.sweep.jobs import Prepared
from matformer_lab.sweep.recipe import Recipe, parse_recipe
from tests.support.command import run_here
from tests.support.sweeps import stored

BLOCK: dict[str, Any] = {
    "budgets": [{"max_params": "60%"}, {"max_params": "80%"}],
    "widths": ["1/4", "1/2", "full"],
    "skip": "none",
    "evaluations": 60,
    "calibration": {"items": 6},
    "proof": 30,
    "random": 1,
}


def size(parent: Path, slice_: str = "full") -> int:
    opened = open_parent(parent)
    return sizes_of(make_plan(opened, resolve_slice(slice_, opened))).effective


def recipe(parent: Path, **block: Any) -> Recipe:
    """A search, with budgets in parts of the parent's parameters."""
    whole, least = size(parent), size(parent, "1/4")
    settings = {**BLOCK, **block}
    settings["budgets"] = [
        {
            kind: least + (whole - least) * int(str(most).rstrip("%")) // 100
            if str(most).endswith("%")
            else most
            for kind, most in budget.items()
        }
        for budget in settings["budgets"]
    ]
    return parse_recipe(
        {
            "parent": str(parent),
            "slices": ["1/2"],
            "tasks": ["tiny_boolq"],
            "dtype": "float32",
            "device": "cpu",
            "search": settings,
        }
    )


@pytest.fixture(scope="module")
def done(scorable: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return run_search(recipe(scorable), tmp_path_factory.mktemp("search") / "out")


def test_each_budget_gets_a_slice_that_stays_within_it(done: SearchResult, scorable: Path) -> None:
    parent = open_parent(scorable)
    for budget in done.record.budgets:
        name = budget.same_as or budget.name
        slice_ = resolve_slice(f"{done.slices_file}#{name}", parent)
        assert pattern_of(slice_, 10) == budget.pattern
        assert sizes_of(make_plan(parent, slice_)).effective == budget.effective
        assert budget.effective <= budget.limits[0].most == int(budget.limits[0].written)


def test_the_found_slice_is_the_best_that_was_measured(done: SearchResult) -> None:
    """Among the slices that ran the race, which saw more items than the rest."""
    for budget in done.record.budgets:
        fitting = [
            each.objective
            for each in done.record.measured
            if done.budget(budget.name).holds(each.pattern)
        ]
        assert budget.measured is not None
        assert budget.measured >= sorted(fitting)[-4]


def test_calibration_and_proof_share_no_item(done: SearchResult) -> None:
    split = done.record.split
    places = {
        part: {(leaf, n) for leaf, numbers in each.items() for n in numbers}
        for part, each in split.items()
    }
    assert set(places) == {"set 0", "set 1", "set 2", "proof"}
    assert sum(map(len, places.values())) == len(set().union(*places.values())) == 3 * 6 + 30


def test_the_proof_is_a_sweep_over_the_proof_items(done: SearchResult) -> None:
    import matformer_lab as ml

    results = ml.load_results(done.folder)
    assert set(results["n"]) == {30}
    names = {budget.name for budget in done.record.budgets if not budget.same_as}
    assert names | {"parent", "uniform-1-2"} <= set(results["slice"])
    samples = ml.load_samples(done.folder)
    places = set(done.record.split["proof"]["tiny_boolq"])
    assert set(samples["doc_id"]) == places
    assert {proof.kind for proof in done.proofs()} == {"published", "random", "parent"} - (
        set() if any(budget.published for budget in done.record.budgets) else {"published"}
    )


def test_tables_of_the_scan_and_of_the_candidates(done: SearchResult) -> None:
    scan = done.scan()
    assert len(set(scan["layer"])) >= 8, "with so few evaluations not every layer of ten"
    assert {"difference", "stderr", "width", "base"} <= set(scan.columns)
    assert len(done.found()) == 2
    assert set(done.candidates()["budget"]) <= {budget.name for budget in done.record.budgets}
    assert done.record.cost.evaluations <= 60


def test_a_candidate_was_foretold_before_it_was_measured(
    done: SearchResult, scorable: Path
) -> None:
    """What the surrogate was fitted to is no test of it."""
    design = planned_scan(prepare_search(recipe(scorable)))
    candidates = [each.pattern for each in done.record.candidates]
    assert candidates and len(candidates) == len(set(candidates))
    assert not set(candidates) & set(design)


def test_another_budget_is_answered_without_a_model(
    done: SearchResult, scorable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measurements, "measure", None)
    parent = open_parent(scorable)
    guess = read_search(done.folder).what_if(max_params=size(scorable, "1/2"))
    sizes = sizes_of(make_plan(parent, guess.slice))
    assert guess.effective == sizes.effective <= size(scorable, "1/2")
    with pytest.raises(InputError, match="above the largest slice"):
        done.what_if(max_params="3.0B")


def test_again_scores_nothing_and_writes_the_same(
    done: SearchResult, scorable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, slices = stored(done.folder), done.slices_file.read_bytes()

    def fail(*_: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr("matformer_lab.sweep.executors.local.load_elastic", fail)
    again = run_search(recipe(scorable), done.folder)
    assert stored(done.folder) == before
    assert done.slices_file.read_bytes() == slices
    assert again.record.budgets == done.record.budgets
    plan = plan_search(recipe(scorable), done.folder)
    assert plan.done == plan.scan and plan.seconds is not None


def test_the_command_prints_what_was_found(done: SearchResult, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        yaml.safe_dump({k: v for k, v in done.record.settings.items() if v is not None})
    )
    planned = run_here("search", file, "--out", done.folder, "--dry-run")
    assert planned.code == 0, planned.err
    assert "layer forwards" in planned.out and "time    about" in planned.out
    printed = run_here("search", file, "--out", done.folder)
    assert printed.code == 0, printed.err
    for name in {budget.same_as or budget.name for budget in done.record.budgets}:
        assert name in printed.out
    assert "slices.yaml" in printed.out and "30 items that the search has not seen" in printed.out


def test_a_killed_search_continues(
    scorable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matformer_lab.sweep.scores.store import Store

    put, count = Store.put, iter(range(10**6))

    def killed(self: Store, *args: Any) -> None:
        if next(count) == 9:
            raise KeyboardInterrupt
        put(self, *args)

    small = recipe(scorable, budgets=[{"max_params": "50%"}], evaluations=20, random=0)
    monkeypatch.setattr(Store, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        run_search(small, tmp_path / "out")
    assert len(stored(tmp_path / "out")) == 9
    kept = stored(tmp_path / "out")
    assert not (tmp_path / "out" / "slices.yaml").exists()
    monkeypatch.setattr(Store, "put", put)
    run_search(small, tmp_path / "out")
    assert kept.items() <= stored(tmp_path / "out").items()


def test_nested_results_and_a_budget_in_bytes(
    scorable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matformer_lab.live.elastic import ElasticParent
    from matformer_lab.sweep.executors.score_pass import load_elastic

    loads = list[Prepared]()

    def counted(prepared: Prepared) -> ElasticParent:
        loads.append(prepared)
        return load_elastic(prepared)

    monkeypatch.setattr("matformer_lab.sweep.executors.local.load_elastic", counted)
    whole = sizes_of(make_plan(open_parent(scorable), resolve_slice("full", open_parent(scorable))))
    made = recipe(
        scorable,
        budgets=[{"max_params": "30%"}, {"max_bytes": whole.nbytes - 1000}],
        nested=True,
        evaluations=50,
        random=0,
    )
    found = [budget.pattern for budget in run_search(made, tmp_path / "out").record.budgets]
    assert all(a <= b for a, b in zip(*found, strict=True))
    assert len(loads) == 2, "once for all rounds of the search, and once for the proof"


@pytest.mark.slow
def test_worker_processes_change_nothing_and_start_once(
    scorable: Path, tmp_path: Path, done: SearchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matformer_lab.scoring.processes.worker_pool import WorkerPool
    from matformer_lab.scoring.processes.worker_process import Opening

    start, starts = WorkerPool.__init__, list[int]()

    def counted(self: WorkerPool, opening: Opening, count: int) -> None:
        starts.append(count)
        start(self, opening, count)

    monkeypatch.setattr(WorkerPool, "__init__", counted)
    result = run_search(recipe(scorable), tmp_path / "out", executor=LocalExecutor(workers=2))
    assert result.slices_file.read_bytes() == done.slices_file.read_bytes()
    assert result.record.measured == done.record.measured
    assert starts == [2, 2], "for all rounds of the search, and for the proof"


def test_the_page_stands_alone_and_escapes_names(done: SearchResult) -> None:
    page = (done.folder / "search.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "").replace(
        "http://www.w3.org", ""
    )
    for budget in done.record.budgets:
        assert (budget.same_as or budget.name) in page
    assert yaml.safe_load((done.folder / "slices.yaml").read_text())["slices"]


# What is refused: one line, exit code 2, nothing written.

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"budgets": []}, "no budget is given"),
    ({"budgets": [{"max_params": 100}]}, "below the smallest slice, which takes"),
    ({"budgets": [{"max_params": "3.0B"}]}, "above the largest slice, which takes"),
    ({"budgets": [{"max_params": "many"}]}, "write a number like 3.0B"),
    ({"budgets": [{"max_params": "60%"}, {"max_params": "60%"}]}, "given twice"),
    ({"calibration": {"items": 700}}, "too few to split"),
    ({"runtimes": ["llama.cpp"]}, "llama.cpp 0c1e57098 loads no slice of"),
    ({"runtimes": ["llama"]}, "no verdicts about 'llama'"),
    ({"widths": ["1/3"]}, "not an integer"),
    ({"skip": [[], [4]]}, "search.skip: skipped layer 4 feeds the shared K/V"),
    ({"budget": []}, "did you mean 'budgets'"),
]


@pytest.mark.parametrize(("block", "expected"), REFUSED)
def test_bad_input_is_one_line_and_writes_nothing(
    scorable: Path, tmp_path: Path, block: dict[str, Any], expected: str
) -> None:
    try:
        settings = recipe(scorable, **block).search
        assert settings is not None
        written = settings.model_dump(mode="json")
    except InputError:
        written = {**BLOCK, "budgets": [{"max_params": 9000}], **block}
    file = tmp_path / "recipe.yaml"
    file.write_text(
        json.dumps({"parent": str(scorable), "tasks": ["tiny_boolq"], "search": written})
    )
    done = run_here("search", file, "--out", tmp_path / "out")
    assert done.code == 2, done.out
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert expected in done.err
    assert not (tmp_path / "out").exists()


def test_two_budgets_between_which_no_slice_lies(scorable: Path, tmp_path: Path) -> None:
    most = size(scorable)
    done = run_here(
        "search", scorable, "--max-params", most - 1, "--max-params", most - 2,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 2 and "give the same slice" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--max-params", "9000", "--context", "5"), "--context needs --max-accelerator-bytes"),
        (("--max-params", "9000", "--text-only"), "--text-only needs --max-bytes"),
        ((), "no budget is given: write --max-params"),
    ],
)
def test_options_that_do_not_fit_together(
    scorable: Path, tmp_path: Path, options: tuple[str, ...], expected: str
) -> None:
    done = run_here("search", scorable, *options, "--out", tmp_path / "out")
    assert done.code == 2 and expected in done.err
    assert not (tmp_path / "out").exists()


def test_a_task_without_right_answers_is_refused(scorable: Path, tmp_path: Path) -> None:
    values = recipe(scorable).model_dump(exclude={"search", "tasks"}, mode="json")
    made = parse_recipe({**values, "limit": 5})
    with pytest.raises(InputError, match="has no `search` block"):
        run_search(made, tmp_path / "out")
    with pytest.raises(InputError, match="limit does not go with search"):
        parse_recipe({**values, "limit": 5, "search": {"budgets": [{"max_params": 9000}]}})


def test_a_plain_sweep_ignores_the_search_block(
    scorable: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    import matformer_lab as ml

    made = recipe(scorable).model_copy(update={"slices": ("1/2",)})
    assert ml.dry_run(made, tmp_path / "out").jobs
    assert not (tmp_path / "out" / STORE).exists()
    del cli


def test_a_text_without_labels_guides_a_search(scorable: Path, tmp_path: Path) -> None:
    made = recipe(
        scorable,
        budgets=[{"max_params": "50%"}],
        evaluations=45,
        random=0,
        calibration={"text": "tiny", "tokens": 4096, "items": 6},
    )
    result = run_search(made, tmp_path / "out")
    assert all(each.objective <= 0 for each in result.record.measured)
    parts = [set(part["agreement"]) for part in result.record.split.values()]
    assert all(parts) and sum(map(len, parts)) == len(set().union(*parts))
    assert "agreement" in {panel.name for panel in result.proof.panels}
    assert result.panel.name == "tiny_boolq"


def test_a_single_evaluation_still_gives_a_slice(scorable: Path, tmp_path: Path) -> None:
    made = recipe(
        scorable,
        budgets=[{"max_params": "20%"}],
        evaluations=1,
        random=0,
        skip=[[], "6-7"],
    )
    result = run_search(made, tmp_path / "out")
    (budget,) = result.record.budgets
    assert result.budget(budget.name).holds(budget.pattern)
    assert result.record.cost.evaluations == 1 and budget.measured is None
    assert result.page.exists()

"""Sweeps with tasks in several settings, generation arguments and task folders."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from matformer_lab.common.errors import InputError
from matformer_lab.gate.run import run_gate
from matformer_lab.results.load import load_results, load_samples
from matformer_lab.results.read import read_sweep
from matformer_lab.sweep.executors.ray_executor import work_of
from matformer_lab.sweep.jobs import prepare
from matformer_lab.sweep.recipe import load_recipe, parse_recipe
from matformer_lab.sweep.run import dry_run, run_sweep
from tests.support.command import run_here
from tests.support.sweeps import stored


def recipe_of(parent: Path, **changes: Any) -> dict[str, Any]:
    return {
        "parent": str(parent),
        "slices": ["1/2", "1/4"],
        "tasks": ["tiny_boolq"],
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 4,
        "limit": 3,
        **changes,
    }


TWO_SETTINGS = [
    {"name": "tiny_hellaswag", "alias": "hellaswag-0shot", "num_fewshot": 0},
    {"name": "tiny_hellaswag", "num_fewshot": 2},
    {"name": "crafts", "alias": "crafts-1shot", "num_fewshot": 1},
    {"name": "crafts", "alias": "crafts-0shot", "num_fewshot": 0},
]
LABELS = ["hellaswag-0shot", "tiny_hellaswag", "crafts-1shot", "crafts-0shot"]


@pytest.fixture(scope="module")
def aliased(scorable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aliased")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "crafts.yaml").write_text(
        "group: crafts\ntask: [tiny_mmlu_brewing, tiny_mmlu_masonry]\n"
        "aggregate_metric_list: [{metric: acc}]\nmetadata: {version: 1.0}\n"
    )
    settings = {"tasks": TWO_SETTINGS, "slices": ["1/2"], "task_folders": [str(folder / "tasks")]}
    return run_sweep(parse_recipe(recipe_of(scorable, **settings)), folder / "out", progress=False)


def test_one_task_stands_in_the_results_in_two_settings(
    aliased: Path, scorable: Path, tmp_path: Path
) -> None:
    results = load_results(aliased)
    own = results[results["group"].isna() & results["primary"]]
    assert list(own["task"].unique()) == LABELS
    shots = own.drop_duplicates("task").set_index("task")["num_fewshot"].to_dict()
    assert [int(shots[label]) for label in LABELS] == [0, 2, 1, 0]
    subjects = results[results["task"] == "tiny_mmlu_brewing"]
    assert set(subjects["group"]) == {"crafts-1shot", "crafts-0shot"}
    samples = load_samples(aliased)
    assert set(samples["task"]) == set(LABELS)
    assert {path.stem for path in (aliased / "samples" / "uniform-1-2").iterdir()} == set(LABELS)

    alone = parse_recipe(recipe_of(scorable, tasks=[TWO_SETTINGS[1]], slices=["1/2"]))
    out = run_sweep(alone, tmp_path / "alone", report=False, progress=False)
    without = load_results(out)
    columns = ["metric", "value", "stderr", "n"]
    same = results[results["task"] == "tiny_hellaswag"][columns].reset_index(drop=True)
    assert same.equals(without[columns])


def test_report_and_gate_call_a_task_by_its_alias(aliased: Path, tmp_path: Path) -> None:
    page = (aliased / "report.html").read_text()
    assert all(label in page for label in LABELS)
    assert [task.name for task in read_sweep(aliased).tasks] == LABELS
    baseline = tmp_path / "baseline.yaml"
    run_gate(aliased, baseline, 1.0, True)
    assert list(yaml.safe_load(baseline.read_text())["tasks"]) == LABELS
    assert run_gate(aliased, baseline, 1.0, False).ok


def test_the_recipe_as_run_holds_the_settings_and_runs_again(aliased: Path, tmp_path: Path) -> None:
    written = yaml.safe_load((aliased / "recipe.yaml").read_text())
    assert [(task["name"], task.get("alias")) for task in written["tasks"]] == [
        (task["name"], task.get("alias")) for task in TWO_SETTINGS
    ]
    recipe = load_recipe(aliased / "recipe.yaml")
    assert dry_run(recipe, aliased).pending == ()


def test_a_ray_worker_gets_the_task_in_its_own_setting(scorable: Path) -> None:
    prepared = prepare(parse_recipe(recipe_of(scorable, tasks=TWO_SETTINGS[:2])))
    for label, shots in (("hellaswag-0shot", 0), ("tiny_hellaswag", 2)):
        group = [job for job in prepared.jobs if job.task.name == label]
        (entry,) = json.loads(work_of(prepared, group, sweep="x", threads=1).recipe)["tasks"]
        assert (entry["name"], entry["num_fewshot"]) == ("tiny_hellaswag", shots)


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        (["boolq", {"name": "boolq", "num_fewshot": 1}], "another `alias`"),
        ([{"name": "boolq", "alias": "x"}, {"name": "mmlu", "alias": "x"}], "x is listed"),
        (["boolq", {"name": "mmlu", "alias": "boolq"}], "boolq is listed"),
        ([{"name": "boolq", "alias": "agreement"}], "agreement is a key"),
        ([{"name": "boolq", "alias": "../x"}], r"tasks\[0\].alias: holds a-z, A-Z, digits"),
        ([{"name": "boolq", "alias": "a/b"}], r"tasks\[0\].alias: holds a-z, A-Z, digits"),
        ([{"name": "boolq", "alias": ""}], r"tasks\[0\].alias: holds a-z, A-Z, digits"),
    ],
)
def test_labels_that_will_not_do_are_refused(tasks: list[Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_recipe({"parent": "tiny", "tasks": tasks})


# --- generation --------------------------------------------------------------------------------


@pytest.fixture
def continues(tmp_path: Path) -> Path:
    """A folder with a task that generates."""
    (tmp_path / "tasks").mkdir()
    data = tmp_path / "items.jsonl"
    data.write_text("".join(f'{{"q": "amber {n}", "a": "stir"}}\n' for n in range(4)))
    (tmp_path / "tasks" / "continues.yaml").write_text(
        "task: continues\n"
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: q\ndoc_to_target: a\n"
        "generation_kwargs: {until: ['\\n'], max_gen_toks: 6, temperature: 0.0}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
        "metadata: {version: 1.0}\n"
    )
    return tmp_path


def generating(parent: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    return recipe_of(
        parent, tasks=["continues"], slices=["1/2"], task_folders=[str(folder / "tasks")], **changes
    )


@pytest.mark.parametrize(
    ("recipe_wide", "own"),
    [
        ({"max_gen_toks": 3}, None),
        (None, {"max_gen_toks": 3, "until": ["q"]}),
        ({"max_gen_toks": 9, "until": ["z"]}, {"max_gen_toks": 2}),
    ],
)
def test_generation_arguments_are_lm_evals(
    recipe_wide: dict[str, Any] | None,
    own: dict[str, Any] | None,
    scorable: Path,
    continues: Path,
) -> None:
    """The request that lm-eval's evaluator builds with `--gen_kwargs`, argument by argument."""
    from lm_eval.tasks import TaskManager

    given = {**(recipe_wide or {}), **(own or {})}
    manager = TaskManager(include_path=str(continues / "tasks"), include_defaults=False)
    theirs = manager.load(["continues"])["tasks"]["continues"]
    theirs.set_config(key="generation_kwargs", value=given, update=True)  # as simple_evaluate does
    theirs.set_config(key="num_fewshot", value=0)
    theirs.set_fewshot_seed(seed=1234)
    theirs.build_all_requests(limit=3)
    recipe = generating(scorable, continues, gen_kwargs=recipe_wide)
    entry = {"name": "continues", "gen_kwargs": own}
    prepared = prepare(parse_recipe({**recipe, "tasks": [entry]}))
    (task,) = prepared.tasks
    assert [request.args for request in task.requests] == [each.args for each in theirs.instances]
    (job,) = prepared.jobs
    assert job.key.gen_kwargs == json.dumps(given, sort_keys=True)


def test_generation_arguments_are_part_of_a_scores_key_and_recorded(
    scorable: Path, continues: Path, tmp_path: Path
) -> None:
    recipe = generating(scorable, continues)
    out = run_sweep(parse_recipe(recipe), tmp_path / "out", report=False, progress=False)
    changed = {**recipe, "gen_kwargs": {"max_gen_toks": 2}}
    (status,) = dry_run(parse_recipe(changed), out).jobs
    assert status.state == "stale"
    assert any(why.startswith("gen_kwargs None -> ") for why in status.why)
    run_sweep(parse_recipe(changed), out, report=False, progress=False)
    written = yaml.safe_load((out / "recipe.yaml").read_text())
    assert written["gen_kwargs"] == {"max_gen_toks": 2}
    assert written["as_run"]["tasks"]["continues"]["gen_kwargs"] == {"max_gen_toks": 2}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"temprature": 0.5},
            "'temprature' is not an argument of generation; did you mean temperatur",
        ),
        ({"nonsense_of_mine": 1}, "'nonsense_of_mine' is not an argument of generation"),
        ({"temperature": "hot"}, "temperature is a number, 0 or more"),
        ({"temperature": -1}, "temperature is a number, 0 or more"),
        ({"top_p": 1.5}, "top_p is a number from 0 to 1"),
        ({"do_sample": 1}, "do_sample is true or false"),
        ({"max_gen_toks": 0}, "max_gen_toks is a whole number, 1 or more"),
        ({"max_gen_toks": True}, "max_gen_toks is a whole number"),
        ({"until": 3}, "until is a text, or a list of texts"),
        ({"max_length": 9}, "give max_gen_toks instead"),
        ({"use_cache": False}, "use_cache is set by lm-eval itself"),
        ({"num_return_sequences": 2}, "num_return_sequences is set by lm-eval itself"),
    ],
)
def test_generation_arguments_that_will_not_do_are_one_line(
    given: dict[str, Any], says: str, scorable: Path, continues: Path
) -> None:
    recipe = generating(scorable, continues)
    entry = {"name": "continues", "gen_kwargs": given}
    for bad in ({**recipe, "gen_kwargs": given}, {**recipe, "tasks": [entry]}):
        with pytest.raises(InputError) as caught:
            prepare(parse_recipe(bad))
        assert says in str(caught.value) and "gen_kwargs" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_task_that_generates_nothing_has_no_arguments_of_its_own(scorable: Path) -> None:
    """For a whole recipe they are lm-eval's: tasks that generate nothing ignore them."""
    entry = {"name": "tiny_boolq", "gen_kwargs": {"max_gen_toks": 3}}
    with pytest.raises(InputError, match="tiny_boolq: gen_kwargs: the task generates no text"):
        prepare(parse_recipe(recipe_of(scorable, tasks=[entry])))
    plain = prepare(parse_recipe(recipe_of(scorable))).jobs[0].key
    wide = parse_recipe(recipe_of(scorable, gen_kwargs={"max_gen_toks": 3}))
    assert prepare(wide).jobs[0].key == plain


# --- task folders ------------------------------------------------------------------------------

SUMS = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: {text}
doc_to_choice: [three, four]
doc_to_target: a
metadata: {{version: 1.0}}
"""


@pytest.fixture
def own_tasks(scorable: Path, tmp_path: Path) -> Path:
    """A recipe with a task folder beside it, whose task runs code."""
    (tmp_path / "mine").mkdir()
    data = tmp_path / "items.jsonl"
    data.write_text("".join(f'{{"q": "1 + {n}", "a": {n % 2}}}\n' for n in (2, 3, 2, 3)))
    (tmp_path / "mine" / "code.py").write_text("def ask(doc):\n    return doc['q'] + ' ='\n")
    text = SUMS.format(data=data, text="!function code.ask")
    (tmp_path / "mine" / "sums.yaml").write_text(text)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(scorable, tasks=["sums"], task_folders=["mine"])))
    return path


def test_the_command_asks_for_trust_and_tells_what_runs(own_tasks: Path, tmp_path: Path) -> None:
    done = run_here("sweep", own_tasks, "--out", tmp_path / "out")
    assert done.code == 2
    assert "code.ask" in done.err and "--trust-tasks" in done.err
    assert done.err.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()
    done = run_here("sweep", own_tasks, "--out", tmp_path / "out", "--quiet", "--trust-tasks")
    assert done.code == 0, done.err
    assert "sums runs code that comes with it: code.ask" in done.err
    assert "sums" in done.out


def test_hashes_of_the_files_are_in_key_and_provenance(own_tasks: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recipe = load_recipe(own_tasks, {"trust_tasks": True})
        run_sweep(recipe, out, report=False, progress=False)
        written = yaml.safe_load((out / "recipe.yaml").read_text())
        assert list(written["as_run"]["tasks"]["sums"]["files"]) == ["code.py", "sums.yaml"]
        assert written["task_folders"] == [str(own_tasks.parent / "mine")]
        before = stored(out)
        run_sweep(out / "recipe.yaml", out, report=False, progress=False)
        assert stored(out) == before
        code = own_tasks.parent / "mine" / "code.py"
        code.write_text(code.read_text() + "# the same prompts\n")
        states = dry_run(recipe, out).jobs
    assert {status.state for status in states} == {"stale"}
    assert {why.partition(" ")[0] for status in states for why in status.why} == {"task_files"}


def test_code_of_the_model_runs_after_a_word_for_it(own_tasks: Path, tmp_path: Path) -> None:
    """lm-eval's evaluator has a check of its own, and is told."""
    sums = own_tasks.parent / "mine" / "sums.yaml"
    sums.write_text(sums.read_text().replace("!function code.ask", "q") + "unsafe_code: true\n")
    done = run_here("sweep", own_tasks, "--out", tmp_path / "out")
    assert done.code == 2 and "--confirm-run-unsafe-code" in done.err
    assert done.err.strip().count("\n") == 0
    allowed = {"confirm_run_unsafe_code": True}
    run_sweep(load_recipe(own_tasks, allowed), tmp_path / "out", report=False, progress=False)
    assert set(load_results(tmp_path / "out")["task"]) == {"sums"}

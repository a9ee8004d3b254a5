"""Tasks of one's own: read without running them, trusted or refused, scored as lm-eval does."""

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.tasks.entry import TaskEntry
from matformer_lab.evaluation.tasks.loading import LoadedTask, load_tasks
from matformer_lab.evaluation.tasks.task_files import read_task_folders
from matformer_lab.sweep.jobs import prepare
from matformer_lab.sweep.recipe import parse_recipe

ITEMS = [
    {"question": f"{a} + {b}", "choices": [str(a + b), str(a + b + 1)], "answer": 0}
    for a, b in ((1, 2), (2, 2), (3, 1), (4, 1))
]

BOMB = "\n".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Aliases of aliases: 43 million values in a few lines."""


def write_items(folder: Path) -> Path:
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    return path


def write_task(folder: Path, name: str, file: str | None = None, **changes: str) -> Path:
    """A task of sums, as its file; `changes` are lines of YAML by key, "" for none."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": f"{{data_files: {{test: {write_items(folder)}}}}}",
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": '"{{question}} ="',
        "doc_to_choice": '"{{choices}}"',
        "doc_to_target": "answer",
        **changes,
    }
    path = folder / (file or f"{name}.yaml")
    path.write_text("".join(f"{key}: {value}\n" for key, value in keys.items() if value))
    return path


def load(
    folders: Path | Sequence[Path], *names: str, limit: float | None = 2, **settings: Any
) -> tuple[LoadedTask, ...]:
    entries = [TaskEntry(name=name) for name in names]
    paths = [folders] if isinstance(folders, Path) else folders
    own = read_task_folders(paths)
    return load_tasks(entries, limit=limit, seed=1234, **{"datasets": None, "own": own, **settings})


def refused(folders: Path | Sequence[Path], *names: str, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(folders, *names, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_task_of_ones_own_loads_beside_the_packages(tmp_path: Path) -> None:
    write_task(tmp_path, "my_sums")
    mine, theirs = load(tmp_path, "my_sums", "tiny_boolq")
    assert mine.requests[0].args == ("1 + 2 =", " 3")
    assert (mine.items, mine.metric, mine.datasets) == (2, "acc", ("json",))
    assert mine.sandboxed and not theirs.sandboxed
    assert list(dict(mine.files)) == ["my_sums.yaml"] and theirs.files == ()


def test_a_reader_of_files_needs_no_dataset_folder(tmp_path: Path) -> None:
    """`json` is no dataset's id: a folder of datasets has no say over it."""
    write_task(tmp_path / "tasks", "my_sums")
    (tmp_path / "data").mkdir()
    (task,) = load(tmp_path / "tasks", "my_sums", datasets=tmp_path / "data")
    assert task.items == 2


def test_data_files_start_from_the_working_directory_as_with_lm_eval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path, "my_sums", dataset_kwargs="{data_files: {test: here.jsonl}}")
    (tmp_path / "elsewhere").mkdir()
    write_items(tmp_path / "elsewhere").rename(tmp_path / "elsewhere" / "here.jsonl")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(tmp_path, "my_sums")[0].items == 2
    monkeypatch.chdir(tmp_path)
    assert "dataset_path: json" in refused(tmp_path, "my_sums")


def test_a_group_of_ones_own_tasks_and_others(tmp_path: Path) -> None:
    write_task(tmp_path, "my_sums", tag="my_tag")
    (tmp_path / "both.yaml").write_text(
        "group: both\ntask: [my_sums, tiny_boolq]\naggregate_metric_list: [{metric: acc}]\n"
    )
    (task,) = load(tmp_path, "both")
    assert set(task.subtasks) == {"my_sums", "tiny_boolq"}
    assert set(dict(task.files)) == {"both.yaml", "my_sums.yaml"}
    assert "is a tag for several tasks" in refused(tmp_path, "my_tag")


# --- code --------------------------------------------------------------------------------------

CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
def ask(doc):
    return doc["question"] + " is"
class Sampler:
    pass
"""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"doc_to_text": "!function code.ask"}, "code.ask ({folder}/code.py)"),
        ({"process_docs": "!function code.ask"}, "code.ask ({folder}/code.py)"),
        ({"class": "!function code.Sampler"}, "code.Sampler ({folder}/code.py)"),
        ({"doc_to_text": "!function os.path.join"}, "os.path.join (installed module os.path)"),
        (
            {"fewshot_config": "{sampler: first_n, samples: !function code.ask}"},
            "code.ask ({folder}/code.py)",
        ),
        (
            {"metric_list": "[{metric: !function code.ask, aggregation: mean}]"},
            "code.ask ({folder}/code.py)",
        ),
        ({"metric_list": "[{metric: my/metric}]"}, "the metric 'my/metric' of `evaluate`"),
        (
            {"metric_list": "[{metric: exact_match, hf_evaluate: true}]"},
            "the metric 'exact_match' of `evaluate`",
        ),
        ({"dataset_path": "pandas"}, "pickles"),
        ({"include": "base.inc"}, "code.ask ({folder}/code.py)"),
        ({"include": "sub/base.inc"}, "code.ask ({folder}/sub/code.py)"),
    ],
)
def test_a_task_that_runs_code_is_refused_and_nothing_of_it_run(
    changes: dict[str, str], says: str, tmp_path: Path
) -> None:
    for folder in (tmp_path, tmp_path / "sub"):
        folder.mkdir(exist_ok=True)
        (folder / "code.py").write_text(CODE)
        # What it names is imported even where a key of the including file takes its place.
        (folder / "base.inc").write_text("doc_to_text: !function code.ask\n")
    path = write_task(tmp_path, "my_sums", **changes)
    told = refused(tmp_path, "my_sums")
    assert says.format(folder=tmp_path) in told
    assert "`trust_tasks`" in told and str(path) in told
    assert not list(tmp_path.rglob("ran"))


def test_code_of_a_groups_member_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(CODE)
    write_task(tmp_path, "my_sums", doc_to_text="!function code.ask", tag="sums")
    for name, members in (("one", "my_sums"), ("two", "sums"), ("three", "{task: my_sums}")):
        (tmp_path / f"{name}.yaml").write_text(
            f"group: {name}\ntask: [{members}]\naggregate_metric_list: [{{metric: acc}}]\n"
        )
        assert "code.ask" in refused(tmp_path, name)
    (tmp_path / "inline.yaml").write_text(
        "group: inline\ntask: [{task: new, doc_to_text: !function code.ask}]\n"
        "aggregate_metric_list: [{metric: acc}]\n"
    )
    assert "code.ask" in refused(tmp_path, "inline")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["1", "true", "1.5", "[a, b]", "{a: b}"])
def test_names_that_are_no_texts_are_refused(name: str, tmp_path: Path) -> None:
    """lm-eval would find the task by them; no name in a recipe, or in a group, stands for it."""
    (tmp_path / "code.py").write_text(CODE)
    group = "group: mine\ntask: [{task: 1}]\naggregate_metric_list: [{metric: acc}]\n"
    write_task(tmp_path, name, file="x.yaml", doc_to_text="!function code.ask")
    assert "is not a" in refused(tmp_path, "tiny_boolq")
    for wicked in ('"' + "x" * 300 + '"', '"a\\e[31mb"', '"a\\nb"', '""', '"a\\u202eb"'):
        write_task(tmp_path, wicked, file="x.yaml")
        assert "is not a" in refused(tmp_path, "tiny_boolq")
    (tmp_path / "x.yaml").write_text(group)
    assert "1 is not a name" in refused(tmp_path, "mine")
    assert not (tmp_path / "ran").exists()


def test_trusted_code_runs_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(CODE)
    write_task(tmp_path, "my_sums", doc_to_text="!function code.ask")
    with pytest.warns(UserWarning, match=r"my_sums runs code .* code\.ask \(.*code\.py\)") as told:
        (task,) = load(tmp_path, "my_sums", trust_tasks=True)
    assert len(told) == 1 and "\n" not in str(told[0].message)
    assert task.requests[0].args[0] == "1 + 2 is"
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
    ],
)
def test_a_template_that_reaches_for_pythons_internals_is_refused(
    template: str, tmp_path: Path
) -> None:
    """lm-eval's templates are not sandboxed: a text in the YAML could run any code."""
    write_task(tmp_path, "my_sums", doc_to_text=json.dumps(template))
    assert "my_sums cannot be" in refused(tmp_path, "my_sums")


def test_the_files_of_a_score_are_hashed_wherever_they_lie(tmp_path: Path) -> None:
    def written(root: Path, code: str = CODE, helper: str = "x = 1", base: str = "") -> LoadedTask:
        write_task(root / "tasks", "my_sums", include="base.inc", doc_to_text="!function code.ask")
        (root / "tasks" / "code.py").write_text(code)
        (root / "tasks" / "helper.py").write_text(helper)
        (root / "tasks" / "base.inc").write_text(f"description: '{base}'\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load(root / "tasks", "my_sums", trust_tasks=True)[0]

    first = written(tmp_path / "a")
    assert list(dict(first.files)) == ["base.inc", "code.py", "helper.py", "my_sums.yaml"]
    same = {
        name: digest for name, digest in written(tmp_path / "b").files if name != "my_sums.yaml"
    }
    assert same.items() <= dict(first.files).items()  # the YAML names the data's folder
    others = [
        written(tmp_path / "a", code=CODE + "# changed\n"),
        written(tmp_path / "a", helper="x = 2"),
        written(tmp_path / "a", base="Add."),
    ]
    assert len({first.files_digest, *(other.files_digest for other in others)}) == 4


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for folder, name in (("a", "one"), ("b", "two")):
        write_task(tmp_path / folder, name, include="base.inc")
        (tmp_path / folder / "base.inc").write_text(f"description: {name}\n")
    (tmp_path / "a" / "both.yaml").write_text(
        "group: both\ntask: [one, two]\naggregate_metric_list: [{metric: acc}]\n"
    )
    (task,) = load([tmp_path / "a", tmp_path / "b"], "both")
    found = dict(task.files)
    assert set(found) == {"base.inc", "both.yaml", "one.yaml", "[2]/base.inc", "[2]/two.yaml"}
    assert found["base.inc"] != found["[2]/base.inc"]


def test_a_changed_include_is_seen_in_the_same_process(tmp_path: Path) -> None:
    write_task(tmp_path, "my_sums", include="base.inc")
    (tmp_path / "base.inc").write_text("unsafe_code: true\n")
    assert "`confirm_run_unsafe_code`" in refused(tmp_path, "my_sums")
    (tmp_path / "base.inc").write_text("unsafe_code: false\n")
    assert load(tmp_path, "my_sums")


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["boolq", "tiny_boolq", "mmlu", "arc_easy", "ai2_arc"])
@pytest.mark.parametrize("key", ["task", "group", "tag"])
def test_a_name_of_lm_evals_own_is_refused(key: str, name: str, tmp_path: Path) -> None:
    """lm-eval would use the file in its own task's place, or its tag, and so its groups."""
    if key == "group":
        (tmp_path / "x.yaml").write_text(f"group: {name}\ntask: [tiny_boolq]\n")
    else:
        write_task(tmp_path, **{"name": "my_sums", "file": "x.yaml", key: name})
    told = refused(tmp_path, "tiny_boolq")
    assert repr(name) in told and str(tmp_path / "x.yaml") in told


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    write_task(tmp_path / "a", "my_sums")
    write_task(tmp_path / "a", "my_sums", file="again.yaml")
    told = refused(tmp_path / "a", "tiny_boolq")
    assert "my_sums.yaml" in told and "again.yaml" in told and "'my_sums'" in told
    (tmp_path / "a" / "again.yaml").unlink()
    write_task(tmp_path / "b", "my_sums")
    told = refused([tmp_path / "a", tmp_path / "b"], "tiny_boolq")
    assert str(tmp_path / "a" / "my_sums.yaml") in told
    assert str(tmp_path / "b" / "my_sums.yaml") in told
    (tmp_path / "b" / "my_sums.yaml").write_text("group: my_sums\ntask: [tiny_boolq]\n")
    assert "'my_sums'" in refused([tmp_path / "a", tmp_path / "b"], "tiny_boolq")
    assert load([tmp_path / "a", tmp_path / "a"], "my_sums")  # one folder, named twice


def test_tags_are_kept_apart(tmp_path: Path) -> None:
    write_task(tmp_path / "a", "one", tag="sums")
    write_task(tmp_path / "a", "two", tag="[sums, more]")
    read_task_folders([tmp_path / "a"])
    write_task(tmp_path / "b", "three", tag="sums")
    assert "the tag 'sums'" in refused([tmp_path / "a", tmp_path / "b"], "one")
    write_task(tmp_path / "a", "four", tag="one")
    assert "the tag 'one'" in refused(tmp_path / "a", "one")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("task: [unclosed", "is not a task file"),
        ("task: !!python/object/apply:os.system [id]", "is not a task file"),
        ("task: x\ninclude: x.yaml", "includes itself"),
        ("task: x\ninclude: nowhere.yaml", "no such file"),
        ("task: x\ninclude: 3", "is not a file name"),
        ("a: " + "[" * 5000, "is not a task file"),
        ("task: x\n\x00", "is not a task file"),
        ("task: x\na: !!bool x", "tag tag:yaml.org,2002:bool is not allowed"),
        ("task: x\na: !!timestamp x", "is not allowed"),
        ('task: x\na: !!int ""', "is not allowed"),
        ("task: x\na: 1" + ":59" * 500_000, "a number of 1,500,001 characters"),
        ("a: " + "[" * 100_000, "is nested more than"),
        ("a: &a [x]\n" + BOMB, "holds more than"),
        ('task: x\ninclude: "\\0"', "is not a file name"),
        (f"task: x\ninclude: {'x' * 5000}", "no such file|cannot be read"),
        ('task: x\na: !function "a\\0b.c"', "names no function"),
        (f"task: x\na: !function {'x' * 5000}.y", "names no function"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    told = refused(tmp_path, "tiny_boolq")
    assert re.search(says, told) and "task_folders: " in told and len(told) < 6000


def test_a_link_that_leads_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"loop: (is a link that leads to itself|no such folder)"):
        read_task_folders([tmp_path / "loop"])
    with pytest.raises(InputError, match=r"loop: (is a link that leads to itself|no such folder)"):
        prepare(parse_recipe({"parent": "tiny", "datasets": str(tmp_path / "loop")}))
    with pytest.raises(InputError, match="no such folder"):
        read_task_folders([tmp_path / ("x" * 5000)])


def test_endless_includes_are_refused(tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / f"{number}").write_text(f"include: '{number + 1}'\n")
    (tmp_path / "x.yaml").write_text("task: x\ninclude: '0'\n")
    assert "more than 100 files are included" in refused(tmp_path, "tiny_boolq")


def test_files_that_define_no_task_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("parent: tiny\ntasks: [my_sums]\n")
    (tmp_path / "list.yaml").write_text("[1, 2]\n")
    (tmp_path / "empty.yaml").write_text("")
    write_task(tmp_path, "my_sums")
    assert read_task_folders([tmp_path]).names == {"my_sums"}


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"task_folders: .*nowhere: no such folder"):
        read_task_folders([tmp_path / "nowhere"])


def test_a_misspelt_task_of_ones_own_is_named(tmp_path: Path) -> None:
    write_task(tmp_path, "my_sums")
    assert "did you mean my_sums" in refused(tmp_path, "my_sum")


def test_a_new_file_is_found_in_the_same_process(tmp_path: Path) -> None:
    """Each folder's index is kept; what it depends on is part of the key."""
    write_task(tmp_path, "my_sums")
    assert load(tmp_path, "my_sums")
    write_task(tmp_path, "my_other_sums")
    assert load(tmp_path, "my_other_sums")


# --- code that the model writes ----------------------------------------------------------------


def test_code_of_the_model_needs_a_word(tmp_path: Path) -> None:
    write_task(tmp_path, "my_sums", unsafe_code="true")
    assert "`confirm_run_unsafe_code`" in refused(tmp_path, "my_sums")
    (task,) = load(tmp_path, "my_sums", confirm_run_unsafe_code=True)
    assert task.runs_code


def test_code_eval_asks_for_a_word_of_its_own(tmp_path: Path) -> None:
    """What `evaluate` says as HumanEval's file is imported, without the lines around it."""
    (tmp_path / "code.py").write_text(
        "raise ValueError('\\n####\\nset the environment variable HF_ALLOW_CODE_EVAL=\"1\"\\n')\n"
    )
    write_task(tmp_path, "my_sums", unsafe_code="true", doc_to_text="!function code.ask")
    allowed = {"trust_tasks": True, "confirm_run_unsafe_code": True}
    with pytest.warns(UserWarning, match=r"code\.ask"):
        told = refused(tmp_path, "my_sums", **allowed)
    assert told.endswith("HF_ALLOW_CODE_EVAL=1 in the environment besides") and "####" not in told


def test_a_metric_that_is_nowhere_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As HumanEval's file loads `code_eval`, with no network and no copy."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    (tmp_path / "code.py").write_text("import evaluate\nevaluate.load('nobodys')\n")
    write_task(tmp_path, "my_sums", unsafe_code="true", doc_to_text="!function code.ask")
    allowed = {"trust_tasks": True, "confirm_run_unsafe_code": True}
    with pytest.warns(UserWarning, match=r"code\.ask"):
        told = refused(tmp_path, "my_sums", **allowed)
    assert "its metric nobodys is a script of the Hub's (HF_HUB_OFFLINE is set)" in told
    assert "hf download evaluate-metric/nobodys --repo-type space --local-dir nobodys" in told
    assert "\n" not in told


PYTHON_TASK = """
from lm_eval.api.task import ConfigurableTask


class Sums(ConfigurableTask):
    def __init__(self, config=None):
        written = {key: value for key, value in config.items() if key != "class"}
        super().__init__(config=written)

    def doc_to_text(self, doc, doc_to_text=None):
        return "Sum: " + doc["question"]
"""


def test_a_task_in_python_is_trusted_or_refused_too(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(PYTHON_TASK)
    write_task(tmp_path, "my_sums", **{"class": "!function sums.Sums"})
    assert "sums.Sums" in refused(tmp_path, "my_sums")
    with pytest.warns(UserWarning, match=r"sums\.Sums"):
        (task,) = load(tmp_path, "my_sums", trust_tasks=True)
    assert task.requests[0].args == ("Sum: 1 + 2", " 3")
    assert list(dict(task.files)) == ["my_sums.yaml", "sums.py"]

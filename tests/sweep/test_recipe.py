"""Recipes: what is accepted, and what each refusal says."""

import json
from pathlib import Path
from typing import Any

import pytest

from matformer_lab.common.errors import InputError
from matformer_lab.common.shipped import shipped_folder
from matformer_lab.sweep.recipe import Recipe, load_recipe, parse_recipe
from matformer_lab.sweep.recipe_schema import recipe_schema


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_the_least_recipe_means_the_published_slices_on_three_tasks(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "parent: tiny\n"))
    assert recipe.slices == ("published",)
    assert [(t.name, t.num_fewshot, t.metric) for t in recipe.tasks] == [
        ("hellaswag", 10, "acc_norm"),
        ("boolq", 0, "acc"),
        ("mmlu", 5, "acc"),
    ]
    assert (recipe.dtype, recipe.device, recipe.batch_size) == ("auto", "auto", "auto")
    assert (recipe.limit, recipe.seed, recipe.datasets) == (None, 1234, None)


def test_a_task_keeps_what_is_written_and_gets_the_rest() -> None:
    recipe = parse_recipe(
        {
            "parent": "tiny",
            "tasks": [{"name": "hellaswag", "num_fewshot": 0}, "arc_easy", {"name": "boolq"}],
        }
    )
    assert [(t.name, t.num_fewshot, t.metric) for t in recipe.tasks] == [
        ("hellaswag", 0, "acc_norm"),
        ("arc_easy", None, None),
        ("boolq", 0, "acc"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("parent: tiny\ntask: [boolq]", "unknown key 'task'; did you mean 'tasks'?"),
        (
            "parent: tiny\ntasks: [{name: boolq, num_fewshots: 3}]",
            "unknown key 'tasks[0].num_fewshots'; did you mean 'num_fewshot'?",
        ),
        ("slices: [e2b]", "key 'parent' is missing"),
        ("parent: tiny\nparent: big", "'parent' appears twice"),
        ("parent: !!python/object/apply:os.system ['touch hit']", "not valid YAML"),
        ("parent: [", "not valid YAML"),
        ("- parent", "a recipe is a mapping of keys"),
        ("1: 2", "a recipe is a mapping of keys"),
        ("parent: tiny\nslices: []", "slices: is empty"),
        ("parent: tiny\nslices: [3]", "slices[0]"),
        ("parent: tiny\ntasks: []", "tasks: is empty"),
        ("parent: tiny\ntasks: [boolq, boolq]", "boolq is listed more than once"),
        (
            "parent: tiny\ntasks: [{name: boolq, alias: average}]",
            "average is what the results call",
        ),
        (
            "parent: tiny\ntasks: [boolq, {name: boolq, alias: BoolQ}]",
            "boolq and BoolQ would be one file where case does not count",
        ),
        ("parent: tiny\ntasks: [{name: boolq, alias: größe}]", "holds a-z, A-Z, digits"),
        ("parent: tiny\ntasks: [{name: boolq, num_fewshot: -1}]", "tasks[0].num_fewshot"),
        ("parent: tiny\nlimit: 0", "limit: should be greater than 0"),
        ("parent: tiny\nlimit: 1.5", "limit: is a whole number of items, or a fraction below 1"),
        ("parent: tiny\nlimit: .inf", "limit: "),
        ("parent: tiny\nlimit: -.inf", "limit: "),
        ("parent: tiny\nlimit: .nan", "limit: "),
        ("parent: tiny\nlimit: 1.0e+300", "limit: "),
        ("parent: tiny\nlimit: yes", "limit: should be a valid integer"),
        ("parent: tiny\nseed: 1.0", "seed: should be a valid integer"),
        (
            "parent: tiny\ndtype: int8",
            "dtype: should be 'auto', 'float32', 'bfloat16' or 'float16'",
        ),
        ("parent: tiny\ndevice: gpu", "device: "),
        ("parent: tiny\nbatch_size: many", "batch_size: should be 'auto'"),
        ("parent: tiny\nscorer: guess", "scorer: should be"),
    ],
)
def test_a_refusal_is_one_line_naming_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert "\n" not in message
    assert not (tmp_path / "hit").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        load_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("written", "means"), [(20, 20), (20.0, 20), (0.1, 0.1), (None, None), (1, 1)]
)
def test_limit_is_lm_evals(written: float | None, means: float | None) -> None:
    limit = parse_recipe({"parent": "tiny", "limit": written}).limit
    assert limit == means
    assert type(limit) is type(means)


def test_overrides_replace_keys_and_are_checked_too(tmp_path: Path) -> None:
    path = write(tmp_path, "parent: tiny\nlimit: 5\n")
    assert load_recipe(path, {"limit": 7}).limit == 7
    with pytest.raises(InputError, match="limit"):
        load_recipe(path, {"limit": -7})


def test_relative_paths_start_from_the_recipe_but_overrides_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").mkdir()
    path = write(tmp_path, "parent: model\ndatasets: data\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = load_recipe(path)
    assert recipe.parent_ref == str(tmp_path / "model")
    assert recipe.datasets_folder == tmp_path / "data"
    overridden = load_recipe(path, {"datasets": Path("mine")})
    assert overridden.datasets_folder == tmp_path / "elsewhere" / "mine"


def test_a_folder_named_tiny_does_not_hide_the_embedded_parent(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    assert load_recipe(write(tmp_path, "parent: tiny\n")).parent_ref == "tiny"


def test_the_committed_schema_is_current() -> None:
    """`python -m matformer_lab.sweep.recipe_schema > recipes/recipe.schema.json` mends it."""
    committed = shipped_folder("recipes") / "recipe.schema.json"
    assert committed.read_text() == recipe_schema()


SHIPPED = sorted(shipped_folder("recipes").glob("*.yaml"))


def test_the_recipes_ship() -> None:
    shipped = {path.stem for path in SHIPPED}
    assert shipped >= {"demo", "published-slices", "e4b-laptop", "smoke-real-data"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_load_and_meet_the_schema(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import yaml

    assert isinstance(load_recipe(path), Recipe)
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(recipe_schema()))


@pytest.mark.parametrize(
    ("recipe", "valid"),
    [
        ({"parent": "tiny", "tasks": ["boolq", {"name": "mmlu", "num_fewshot": 5}]}, True),
        ({"parent": "tiny", "slices": ["e2b", {"name": "x", "widths": "1/2"}]}, True),
        ({"parent": "tiny", "limit": None, "batch_size": 4, "dtype": "float16"}, True),
        ({"parent": "tiny", "task": ["boolq"]}, False),
        ({"slices": ["e2b"]}, False),
        ({"parent": "tiny", "slices": []}, False),
        ({"parent": "tiny", "slices": [{"name": "x", "width": "1/2"}]}, False),
        ({"parent": "tiny", "tasks": [{"name": "mmlu", "shots": 5}]}, False),
    ],
)
def test_the_schema_says_what_the_models_say(recipe: dict[str, Any], valid: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(json.loads(recipe_schema()))
    assert checker.is_valid(recipe) is valid


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task_folders", "tasks", "task_folders: should be a list (got 'tasks')"),
        ("task_folders", [5], "task_folders[0]: should be a path (got 5)"),
        ("task_folders", [""], 'task_folders: an empty path; write "." for the folder'),
        ("gen_kwargs", "max_gen_toks=8", "gen_kwargs: should be a mapping, {key: value}"),
        ("apply_chat_template", 1, "apply_chat_template: should be true or false or should be a"),
        ("apply_chat_template", "", "true or false or should not be empty (got '')"),
        ("trust_tasks", "yes", "trust_tasks: should be true or false (got 'yes')"),
    ],
)
def test_messages_speak_of_yaml_not_of_python(key: str, value: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe({"parent": "tiny", key: value})
    assert message in str(caught.value)


def test_what_is_wrong_with_the_whole_does_not_print_the_whole() -> None:
    with pytest.raises(InputError, match=r"there are no turns$"):
        parse_recipe({"parent": "tiny", "fewshot_as_multiturn": True})

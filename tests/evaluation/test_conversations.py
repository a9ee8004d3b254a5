"""Prompts as conversations: lm-eval's own, item by item, and what is refused before scoring."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.models.huggingface import HFLM

from matformer_lab import tiny
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.tasks.datasets import mapped_datasets
from matformer_lab.evaluation.tasks.prompts.conversations import Conversations, conversations
from matformer_lab.evaluation.tasks.prompts.prompting import Prompting
from matformer_lab.evaluation.tokenizer import load_tokenizer
from matformer_lab.parent.opening import open_parent
from matformer_lab.results.files import STORE
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan
from matformer_lab.sweep.jobs import Prepared, prepare
from matformer_lab.sweep.recipe import parse_recipe
from matformer_lab.sweep.run import run_sweep
from matformer_lab.sweep.scores.store import Store

LIMIT = 2
SHOTS = 2
TASKS = ("tiny_hellaswag", "tiny_mmlu_brewing")  # the second with a description
SYSTEM = "Answer in one word."


def recipe_of(parent: Path, **changes: Any) -> dict[str, Any]:
    return {
        "parent": str(parent),
        "slices": ["1/2"],
        "tasks": [{"name": name, "num_fewshot": SHOTS} for name in TASKS],
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 4,
        "limit": LIMIT,
        **changes,
    }


def prepared(parent: Path, **changes: Any) -> Prepared:
    return prepare(parse_recipe(recipe_of(parent, **changes)))


@pytest.fixture(scope="module")
def extracted(instruction_tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> HFLM:
    """The slice as a checkpoint, loaded by lm-eval."""
    parent = open_parent(str(instruction_tuned))
    folder = tmp_path_factory.mktemp("extracted") / "half"
    write_checkpoint(make_plan(parent, resolve_slice("1/2", parent)), folder)
    assert (folder / "chat_template.jinja").exists()
    return HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4)


def lm_evals_samples(lm: HFLM, **settings: Any) -> dict[tuple[str, int], dict[str, Any]]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=tiny.tasks_dir(), include_defaults=False)
    with mapped_datasets(tiny.datasets_dir()):
        results = lm_eval.simple_evaluate(
            model=lm,
            tasks=list(TASKS),
            num_fewshot=SHOTS,
            task_manager=manager,
            limit=LIMIT,
            bootstrap_iters=0,
            random_seed=1234,
            fewshot_random_seed=1234,
            **settings,
        )
    return {
        (task, sample["doc_id"]): sample
        for task, listed in results["samples"].items()
        for sample in listed
    }


TURNS = {"apply_chat_template": True, "fewshot_as_multiturn": True}
ONE_TURN = {
    "apply_chat_template": True,
    "fewshot_as_multiturn": False,
    "system_instruction": SYSTEM,
}


@pytest.mark.parametrize(
    ("scorer", "settings"),
    [
        ("prefix", TURNS),
        ("prefix", ONE_TURN),
        ("prefix", {"system_instruction": SYSTEM}),
        ("lm-eval", TURNS),
    ],
    ids=["turns", "one turn, system", "system alone", "turns, lm-eval's scorer"],
)
def test_every_item_is_as_lm_eval_scores_the_checkpoint(
    scorer: str,
    settings: dict[str, Any],
    instruction_tuned: Path,
    extracted: HFLM,
    tmp_path: Path,
) -> None:
    theirs = lm_evals_samples(extracted, **settings)
    recipe = parse_recipe(recipe_of(instruction_tuned, scorer=scorer, **settings))
    out = run_sweep(recipe, tmp_path / "out", report=False, progress=False)
    as_run = yaml.safe_load((out / "recipe.yaml").read_text())["as_run"]
    if settings.get("apply_chat_template"):
        template = (instruction_tuned / "chat_template.jinja").read_bytes()
        digest = hashlib.sha256(template).hexdigest()
        assert as_run["chat_template"] == {"name": "default", "sha256": digest}
    else:
        assert "chat_template" not in as_run
    items = [
        item
        for job in prepare(recipe).jobs
        for item in Store(out / STORE).items(job.key).to_pylist()
    ]
    assert len(items) == len(theirs) == 2 * LIMIT
    for item in items:
        sample = theirs[item["subtask"], item["doc_id"]]
        assert item["prompt_hash"] == sample["prompt_hash"]
        logprobs = [logprob for logprob, _ in sample["filtered_resps"]]
        exactly = scorer == "lm-eval"
        assert item["logprobs"] == (logprobs if exactly else pytest.approx(logprobs, abs=2e-4))
        assert item["acc"] == sample["acc"]


@pytest.mark.slow
def test_every_item_is_as_lm_evals_command_line_scores_the_checkpoint(
    instruction_tuned: Path, extracted: HFLM, tmp_path: Path
) -> None:
    """`lm_eval run` with the flags of the same names, in the folder where its datasets are."""
    arguments = {
        "--model": "hf",
        "--model_args": f"pretrained={extracted.pretrained},dtype=float32",
        "--tasks": TASKS[1],
        "--num_fewshot": SHOTS,
        "--limit": LIMIT,
        "--seed": 1234,
        "--batch_size": 4,
        "--device": "cpu",
        "--include_path": tiny.tasks_dir(),
        "--output_path": tmp_path / "theirs",
        "--system_instruction": SYSTEM,
    }
    command = [sys.executable, "-m", "lm_eval", "run", "--log_samples", "--apply_chat_template"]
    command += [str(part) for pair in arguments.items() for part in pair]
    env = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    subprocess.run(
        command, check=True, cwd=tiny.datasets_dir(), env={**os.environ, **env}, timeout=900
    )
    (listed,) = (tmp_path / "theirs").rglob("samples_*.jsonl")
    theirs = {(each := json.loads(line))["doc_id"]: each for line in listed.open()}
    settings = {"apply_chat_template": True, "system_instruction": SYSTEM, "scorer": "lm-eval"}
    tasks = [{"name": TASKS[1], "num_fewshot": SHOTS}]
    recipe = parse_recipe(recipe_of(instruction_tuned, tasks=tasks, **settings))
    out = run_sweep(recipe, tmp_path / "out", report=False, progress=False)
    (job,) = prepare(recipe).jobs
    items = Store(out / STORE).items(job.key).to_pylist()
    assert len(items) == len(theirs) == LIMIT
    for item in items:
        sample = theirs[item["doc_id"]]
        assert item["prompt_hash"] == sample["prompt_hash"]
        said = [float(logprob) for logprob, _ in sample["filtered_resps"]]
        assert item["logprobs"] == pytest.approx(said, abs=1e-5)


def test_turns_are_the_default_with_a_template_as_with_lm_eval_run(instruction_tuned: Path) -> None:
    """`lm_eval run --apply_chat_template` alone turns `fewshot_as_multiturn` on."""
    by_default = prepared(instruction_tuned, apply_chat_template=True).tasks
    said = prepared(instruction_tuned, apply_chat_template=True, fewshot_as_multiturn=True).tasks
    one_turn = prepared(instruction_tuned, apply_chat_template=True, fewshot_as_multiturn=False)
    assert [task.prompt_hash for task in by_default] == [task.prompt_hash for task in said]
    assert by_default[0].requests[0].args[0].count("<start_of_turn>model") == SHOTS + 1
    assert one_turn.tasks[0].requests[0].args[0].count("<start_of_turn>model") == 1


def test_what_the_system_says_stands_in_the_first_turn(instruction_tuned: Path) -> None:
    both = prepared(instruction_tuned, apply_chat_template=True, system_instruction=SYSTEM)
    hellaswag, mmlu = both.tasks
    assert hellaswag.requests[0].args[0].startswith(f"<bos><start_of_turn>user\n{SYSTEM}\n\n")
    assert (
        mmlu.requests[0]
        .args[0]
        .startswith(f"<bos><start_of_turn>user\n{SYSTEM}\n\nThe following are")
    )


def test_every_prompt_has_exactly_one_bos_though_the_template_writes_its_own(
    instruction_tuned: Path, extracted: HFLM
) -> None:
    bos = extracted.tokenizer.bos_token_id
    for task in prepared(instruction_tuned, apply_chat_template=True).tasks:
        assert task.requests
        for request in task.requests:
            context, continuation = extracted._encode_pair(*request.args)
            assert context[0] == bos
            assert bos not in [*context[1:], *continuation]


def test_scores_of_plain_prompts_keep_their_keys_and_others_have_their_own(
    instruction_tuned: Path, scorable: Path
) -> None:
    """The chat template is no part of a score that does not use it."""
    settings = {"tasks": ["tiny_boolq"], "apply_chat_template": False}
    (plain,) = prepared(instruction_tuned, **settings).jobs
    (without,) = prepared(scorable, **settings).jobs
    assert plain.key == without.key
    assert not {"turns", "gen_kwargs", "task_files"} & plain.key.fields.keys()
    keys = {
        json.dumps(changes): prepared(instruction_tuned, **{**settings, **changes}).jobs[0].key
        for changes in (
            {"apply_chat_template": True},
            {"apply_chat_template": True, "system_instruction": SYSTEM},
            {"system_instruction": SYSTEM},
        )
    }
    assert len({plain.key.digest, *(key.digest for key in keys.values())}) == 4
    for key in keys.values():
        assert any(said.startswith("turns ") for said in plain.key.differences(key.fields))


def written(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(text)

    return write


def named_templates(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "terse.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m.content }}|{% endfor %}"
    )


def removed(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


NO_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{{ m.content }}|{% endfor %}"
)
DROPS_SYSTEM = (
    "{{ bos_token }}{% for m in messages if m.role != 'system' %}{{ m.content }}|{% endfor %}"
)


@pytest.mark.parametrize(
    ("change", "settings", "says"),
    [
        (removed, {"apply_chat_template": True}, "has no chat template"),
        (removed, {"apply_chat_template": "terse"}, "has no chat template"),
        (None, {"apply_chat_template": "terse"}, "no template 'terse'; it has default"),
        (named_templates, {"apply_chat_template": "rag"}, "'rag'; it has default, terse"),
        (
            written(NO_SYSTEM),
            {"apply_chat_template": True, "system_instruction": SYSTEM},
            "no place for it",
        ),
        (
            written(DROPS_SYSTEM),
            {"apply_chat_template": True, "system_instruction": SYSTEM},
            "no place for it",
        ),
        (
            written(
                "{{ bos_token }}{% for m in messages %}"
                "{{ 1 + m.role if m.role == 'system' else m.content }}{% endfor %}"
            ),
            {"apply_chat_template": True, "system_instruction": SYSTEM},
            "no place for it",
        ),
        (written("{{ bos_token }}" * 2), {"apply_chat_template": True}, "exactly one BOS"),
        (written("\n{{ bos_token }}"), {"apply_chat_template": True}, "exactly one BOS"),
        (written("{{ nothing.at.all }}"), {"apply_chat_template": True}, "template fails"),
        (written("{% if %}"), {"apply_chat_template": True}, "template fails"),
        (
            written("{{ bos_token }}{% if messages | length > 1 %}{{ raise_exception('one turn') }}"
                    "{% endif %}{{ messages[0].content }}"),
            {"apply_chat_template": True},
            "one turn",
        ),
    ],
)  # fmt: skip
def test_a_template_that_will_not_do_is_one_line(
    change: Callable[[Path], None] | None,
    settings: dict[str, Any],
    says: str,
    instruction_tuned: Path,
    tmp_path: Path,
) -> None:
    parent = Path(shutil.copytree(instruction_tuned, tmp_path / "parent"))
    if change is not None:
        change(parent)
    with pytest.raises(InputError) as caught:
        prepared(parent, tasks=["tiny_hellaswag"], **settings)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_template_is_the_one_that_is_used(instruction_tuned: Path, tmp_path: Path) -> None:
    """lm-eval 0.4.13 looks the name up, and then applies `default` all the same."""
    parent = Path(shutil.copytree(instruction_tuned, tmp_path / "parent"))
    named_templates(parent)
    tokenizer = load_tokenizer(open_parent(str(parent)))
    question = [{"role": "user", "content": "Why?"}]

    def with_name(name: bool | str) -> Conversations:
        return conversations(Prompting(apply_chat_template=name), tokenizer, "parent")

    assert with_name("terse").apply_chat_template(question) == "<bos>Why?|"
    for name in (True, "default"):
        said = with_name(name).apply_chat_template(question)
        assert said == "<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n"


def test_a_description_that_the_template_has_no_place_for_is_told(
    instruction_tuned: Path, tmp_path: Path
) -> None:
    parent = Path(shutil.copytree(instruction_tuned, tmp_path / "parent"))
    written(NO_SYSTEM)(parent)
    with pytest.warns(UserWarning, match=r"tiny_mmlu_brewing: its description is left out"):
        (task,) = prepared(parent, tasks=["tiny_mmlu_brewing"], apply_chat_template=True).tasks
    assert "The following are" not in task.requests[0].args[0]


def test_a_parent_with_a_template_scored_without_it_gets_a_line(
    instruction_tuned: Path, scorable: Path
) -> None:
    settings = {"tasks": ["tiny_boolq"]}
    with pytest.warns(UserWarning, match="has a chat template and is scored without it") as told:
        prepared(instruction_tuned, **settings)
    assert len(told) == 1 and "\n" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared(instruction_tuned, apply_chat_template=False, **settings)
        prepared(instruction_tuned, apply_chat_template=True, **settings)
        prepared(scorable, **settings)


def test_turns_without_a_template_are_refused() -> None:
    with pytest.raises(InputError, match="fewshot_as_multiturn needs apply_chat_template"):
        parse_recipe({"parent": "tiny", "fewshot_as_multiturn": True})

"""Tasks: names, dataset mapping, prompts and their hash."""

import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import datasets
import pytest

from matformer_lab import tiny
from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.tasks.dataset_ids import FORMER_IDS
from matformer_lab.evaluation.tasks.datasets import mapped_datasets
from matformer_lab.evaluation.tasks.entry import TaskEntry
from matformer_lab.evaluation.tasks.hub_reach import SECONDS, hub_answers
from matformer_lab.evaluation.tasks.loading import LoadedTask, load_tasks
from tests.support.command import run_offline


def load(
    name: str,
    *,
    num_fewshot: int | None = None,
    metric: str | None = None,
    limit: float | None = 3,
    seed: int = 1234,
    data: Path | None = None,
) -> LoadedTask:
    entry = TaskEntry(name=name, num_fewshot=num_fewshot, metric=metric)
    return load_tasks([entry], limit=limit, seed=seed, datasets=data)[0]


def test_own_tasks_load_without_a_datasets_folder() -> None:
    task = load("tiny_hellaswag")
    assert (task.num_fewshot, task.items, len(task.requests)) == (5, 3, 12)
    assert task.datasets == ("matformer_lab/tiny_hellaswag",)


def test_own_tasks_load_beside_a_datasets_folder_that_lacks_them(tmp_path: Path) -> None:
    assert load("tiny_boolq", data=tmp_path).items == 3


def test_a_group_counts_the_limit_for_each_of_its_tasks() -> None:
    task = load("tiny_mmlu", limit=2)
    assert task.items == 2 * len(task.subtasks) > 2
    assert task.metric == "acc"


def test_a_fraction_is_a_share_of_the_items() -> None:
    whole = load("tiny_boolq", limit=None).items
    assert load("tiny_boolq", limit=0.1).items == -(-whole // 10)


def test_a_task_whose_file_says_zero_shots_stays_at_zero() -> None:
    """lm-eval's rule; what was used is what is recorded."""
    assert load("tiny_boolq", num_fewshot=3).num_fewshot == 0
    assert load("tiny_hellaswag", num_fewshot=2).num_fewshot == 2


def test_shots_that_a_tasks_file_overrides_are_told() -> None:
    with pytest.warns(UserWarning, match=r"tiny_boolq: num_fewshot is 3 .* its file says 0"):
        task = load("tiny_boolq", num_fewshot=3)
    assert (task.num_fewshot, task.num_fewshot_asked) == (0, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load("tiny_boolq", num_fewshot=0).num_fewshot_asked is None
        assert load("tiny_hellaswag", num_fewshot=2).num_fewshot_asked is None


@pytest.mark.parametrize("shots", [1_000, 100_000])
@pytest.mark.parametrize("name", ["tiny_mmlu", "tiny_hellaswag"])
def test_more_shots_than_there_are_examples_are_refused(name: str, shots: int) -> None:
    says = rf"{name}: num_fewshot is {shots}, more than the \d+ examples.* to draw from"
    with pytest.raises(InputError, match=says):
        load(name, num_fewshot=shots)


def test_as_many_shots_as_there_are_examples_are_fine(tmp_path: Path) -> None:
    data = write_boolq(tmp_path, [0, 1, 1, 0])
    assert load("boolq", num_fewshot=3, data=data).num_fewshot == 3  # one may be the item itself
    with pytest.raises(InputError, match="4, more than the 3 examples"):
        load("boolq", num_fewshot=4, data=data)


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"tiny_hellaswag has no metric 'f1'; it has acc, acc_norm"
    ):
        load("tiny_hellaswag", metric="f1")


@pytest.mark.parametrize(
    ("name", "metric", "known"),
    [
        ("tiny_hellaswag", "acc,bogus", "acc,none"),
        ("tiny_hellaswag", "acc,", "acc,none"),
        ("tiny_hellaswag", "acc, none", "acc,none"),
        ("tiny_hellaswag", "acc,none,none", "acc,none"),
        ("tiny_mmlu", "acc,strict-match", "acc,none"),
    ],
)
def test_an_unknown_filter_is_refused_with_the_known_ones(
    name: str, metric: str, known: str
) -> None:
    with pytest.raises(InputError) as caught:
        load(name, metric=metric)
    assert f"{name} has no metric {metric!r}" in str(caught.value)
    assert known in str(caught.value)


@pytest.mark.parametrize("name", ["tiny_hellaswag", "tiny_mmlu"])
def test_lm_evals_own_filter_may_be_named(name: str) -> None:
    assert load(name, metric="acc,none").metric == "acc"


def test_prompts_hash_alike_only_when_they_are_alike() -> None:
    base = load("tiny_hellaswag")
    assert load("tiny_hellaswag").prompt_hash == base.prompt_hash
    others = [
        load("tiny_hellaswag", num_fewshot=4),
        load("tiny_hellaswag", limit=4),
        load("tiny_hellaswag", seed=1),
        load("tiny_boolq"),
    ]
    assert len({base.prompt_hash, *(other.prompt_hash for other in others)}) == 5


def test_the_prompt_hash_is_the_same_in_another_process() -> None:
    script = (
        "from tests.evaluation.test_tasks import load; "
        "print(load('tiny_mmlu', num_fewshot=1).prompt_hash)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )
    assert done.stdout.strip() == load("tiny_mmlu", num_fewshot=1).prompt_hash


def write_boolq(root: Path, labels: list[int]) -> Path:
    """A dataset repository that lm-eval's own `boolq` reads, with these answers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = root / "aps" / "super_glue" / "boolq"
    folder.mkdir(parents=True)
    rows = len(labels)
    table = pa.table(
        {
            "passage": [f"Passage {n}." for n in range(rows)],
            "question": [f"is it {n}" for n in range(rows)],
            "label": labels,
        }
    )
    for split in ("train", "validation"):
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    (folder.parent / "README.md").write_text(
        "---\nconfigs:\n- config_name: boolq\n  data_files:\n"
        "  - {split: train, path: boolq/train-*}\n"
        "  - {split: validation, path: boolq/validation-*}\n---\n"
    )
    return root


@pytest.mark.parametrize("column", ["passage", "question", "label"])
@pytest.mark.parametrize("splits", ["train", "validation", "train validation"])
def test_a_dataset_that_lacks_a_column_is_refused_before_scoring(
    column: str, splits: str, tmp_path: Path
) -> None:
    """lm-eval takes a missing column's name for a text: without labels, all answers are wrong."""
    import pyarrow.parquet as pq

    data = write_boolq(tmp_path, [0, 1, 1, 0])
    for path in (data / "aps/super_glue/boolq").iterdir():
        if path.name.partition("-")[0] in splits:
            pq.write_table(pq.read_table(path).drop_columns([column]), path)
    with pytest.raises(InputError, match=rf"{column}") as caught:
        load("boolq", num_fewshot=1, data=data)
    assert "boolq" in str(caught.value) or str(data) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_answers_that_no_item_has_are_refused(tmp_path: Path) -> None:
    """The labels of a test split are hidden: -1 for every item, and the score would be 0."""
    with pytest.raises(InputError, match=r"none of its 3 items .* has a right answer"):
        load("boolq", data=write_boolq(tmp_path, [-1, -1, -1, -1]))
    assert load("boolq", data=write_boolq(tmp_path / "b", [-1, 1, 0, 1])).items == 3


def test_data_without_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="super_glue"):
        load("boolq", data=write_boolq(tmp_path, []))


def test_lm_evals_own_tasks_read_the_mapped_folder(tmp_path: Path) -> None:
    task = load("boolq", data=write_boolq(tmp_path, [0, 1, 1, 0]))
    assert (task.items, task.version, task.datasets) == (3, "2.0", ("aps/super_glue",))
    prompt, answer = task.requests[0].args
    assert prompt == "Passage 0.\nQuestion: is it 0?\nAnswer:"
    assert answer == " no"


def test_the_gold_answers_and_where_the_data_lies(tmp_path: Path) -> None:
    """A flipped label is a different task; the same data elsewhere is not."""
    here = load("boolq", data=write_boolq(tmp_path / "a", [0, 1, 1, 0]))
    there = load("boolq", data=write_boolq(tmp_path / "b", [0, 1, 1, 0]))
    flipped = load("boolq", data=write_boolq(tmp_path / "c", [0, 1, 0, 0]))
    beyond_the_limit = load("boolq", data=write_boolq(tmp_path / "d", [0, 1, 1, 1]))
    assert here.prompt_hash == there.prompt_hash == beyond_the_limit.prompt_hash
    assert here.prompt_hash != flipped.prompt_hash


def test_mapped_data_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def connect(_: socket.socket, address: object) -> None:
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert load("boolq", data=write_boolq(tmp_path, [0, 1, 1, 1, 0])).items == 3
    assert tried == []


def test_a_missing_dataset_is_named_at_once(tmp_path: Path) -> None:
    """And without the 23 s that a fruitless search of the Hub takes."""
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        load("boolq", data=tmp_path)
    assert time.monotonic() - began < 10
    message = str(caught.value)
    assert "'aps/super_glue'" in message
    assert str(tmp_path / "aps" / "super_glue") in message


@contextmanager
def silent_server() -> Iterator[str]:
    """It has a full queue of connections and accepts none: packets to it are dropped."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for each in waiting:
            each.close()


@contextmanager
def closed_port() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("endpoint", [closed_port, silent_server])
def test_with_no_network_a_missing_dataset_is_one_line_within_seconds(
    endpoint: Callable[[], AbstractContextManager[str]], tmp_path: Path
) -> None:
    """And no lines of retries: huggingface_hub would try for 37 s."""
    (tmp_path / "recipe.yaml").write_text("parent: tiny\ntasks: [boolq]\n")
    with endpoint() as url:
        env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")}
        done = run_offline("-m", "matformer_lab", "sweep", "recipe.yaml", cwd=tmp_path, env=env)
    assert done.code == 2, done.err
    assert done.err.count("\n") == 1, done.err
    assert f"{url} does not answer" in done.err and "--datasets" in done.err


def test_asking_the_hub_takes_seconds_at_most() -> None:
    for endpoint in (silent_server, closed_port):
        with endpoint() as url:
            began = time.monotonic()
            assert not hub_answers(url)
            assert time.monotonic() - began < SECONDS + 2
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert hub_answers(f"http://127.0.0.1:{server.getsockname()[1]}")


def test_a_datasets_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load("boolq", data=tmp_path / "nowhere")


def test_a_broken_dataset_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "aps" / "super_glue").mkdir(parents=True)
    with pytest.raises(InputError, match=r"'aps/super_glue' cannot be read from .*super_glue"):
        load("boolq", data=tmp_path)


def test_the_mapping_ends_with_its_block(tmp_path: Path) -> None:
    before = datasets.load_dataset
    with mapped_datasets(tmp_path):
        kept = datasets.load_dataset  # as `from datasets import load_dataset` in a task module
    assert datasets.load_dataset is before
    own = tiny.datasets_dir() / "matformer_lab" / "tiny_boolq"
    assert len(kept(str(own))["validation"]) > 0


@pytest.mark.parametrize(
    ("name", "near"), [("helaswag", "hellaswag"), ("tiny_bolq", "tiny_boolq"), ("mlmu", "mmlu")]
)
def test_a_misspelt_task_is_refused_within_seconds(name: str, near: str, tmp_path: Path) -> None:
    """A process of its own: without lm-eval's index of 14,000 files, and without torch."""
    (tmp_path / "recipe.yaml").write_text(f"parent: tiny\ntasks: [tiny_mmlu, {name}]\n")
    script = (
        "import sys\n"
        "from matformer_lab.cli.main import main\n"
        "try:\n"
        "    main(['sweep', 'recipe.yaml'])\n"
        "finally:\n"
        "    assert not {'torch', 'lm_eval.tasks', 'datasets'} & sys.modules.keys()\n"
    )
    done = run_offline("-c", script, cwd=tmp_path)
    assert done.code == 2, done.err
    assert f"{name!r} is not a task" in done.err and near in done.err
    assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.slow
def test_the_shipped_names_are_lm_evals() -> None:
    """`python -m matformer_lab.evaluation.tasks.known_names` mends it."""
    from matformer_lab.evaluation.tasks.known_names import known_names
    from matformer_lab.evaluation.tasks.names import indexed, shipped_names

    there = set(indexed(None).all_tasks) - shipped_names()
    known = known_names()
    assert known is not None and set(known) == there


def test_a_task_file_is_refused_and_its_code_not_run(tmp_path: Path) -> None:
    hit = tmp_path / "hit"
    (tmp_path / "evil.py").write_text(f"open({str(hit)!r}, 'w')\ndef f(doc): return ''\n")
    task = tmp_path / "task.yaml"
    task.write_text("task: evil\ndataset_path: x/y\ndoc_to_text: !function evil.f\n")
    with pytest.raises(InputError, match="a task file can run code"):
        load(str(task))
    assert not hit.exists()


def test_a_dataset_is_opened_once_for_all_tasks_of_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    asked: list[object] = []
    original = datasets.load_dataset

    def counted(*args: object, **kwargs: object) -> object:
        asked.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(datasets, "load_dataset", counted)
    (tmp_path / "me/sums").mkdir(parents=True)
    (tmp_path / "me/sums/test.jsonl").write_text('{"sum": "1 + 1"}\n')
    with mapped_datasets(tmp_path):
        one, other = (datasets.load_dataset("me/sums") for _ in range(2))
        one["test"] = one["test"].select([])
        third = datasets.load_dataset("me/sums", split="test")
    assert [len(each) for each in (one["test"], other["test"], third)] == [0, 1, 1]
    assert len(asked) == 2


@pytest.mark.slow
def test_the_short_index_holds_the_same_tasks_as_the_full_one() -> None:
    from matformer_lab.evaluation.tasks.names import USUAL_FOLDERS, folder_of, indexed

    short, full = indexed(tuple(sorted(USUAL_FOLDERS))), indexed(None)

    def leaves(index: object, name: str) -> dict[str, Path]:
        entry = index.task_index[name]  # type: ignore[attr-defined]
        children = entry.tags if entry.kind.name == "TAG" else (entry.cfg or {}).get("task")
        if isinstance(children, str) or children is None:
            return {name: entry.yaml_path}
        return {leaf: path for child in children for leaf, path in leaves(index, child).items()}

    one_language = ("mmmlu_de_de", "global_mmlu_full_de", "mmlu_prox_de", "mmmlu_yo_ng_virology")
    for name in (*USUAL_FOLDERS, *one_language):
        assert folder_of(name)
        assert leaves(short, name) == leaves(full, name)
    assert len(leaves(full, "mmlu")) == 57


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("helaswag", r"not a task or group of lm-eval; did you mean hellaswag"),
        ("ai2_arc", r"tag for several tasks .* arc_"),
        ("humaneval", r"runs code that the model writes"),
        ("openllm", r"group 'openllm' defines no common score"),
    ],
)
def test_names_that_cannot_be_scored_say_why(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        load(name)


# --- dataset ids -------------------------------------------------------------------------------


def test_every_dataset_id_with_a_former_one_is_lm_evals() -> None:
    """As `dataset_path` of a task file of the installed lm-eval."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    there = {
        line.partition(":")[2].strip().strip("\"'")
        for pattern in ("*.yaml", "*yaml*")
        for path in root.rglob(pattern)
        if path.is_file()
        for line in path.read_text(errors="replace").splitlines()
        if line.startswith("dataset_path:")
    }
    assert not FORMER_IDS.keys() - there
    for former in FORMER_IDS.values():
        assert former and len(set(former)) == len(former)


@pytest.mark.parametrize("former", ["super_glue"])
def test_a_folder_of_a_former_id_serves_todays(former: str, tmp_path: Path) -> None:
    today = load("boolq", data=write_boolq(tmp_path / "today", [0, 1, 1, 0]))
    data = write_boolq(tmp_path / "then", [0, 1, 1, 0])
    (data / "aps" / "super_glue").rename(data / former)
    assert load("boolq", data=data).prompt_hash == today.prompt_hash


@pytest.mark.parametrize(
    ("wanted", "folder"),
    [
        ("baber/piqa", "piqa"),
        ("lighteval/siqa", "social_i_qa"),
        ("allenai/ai2_arc", "ai2_arc"),
        ("CohereForAI/Global-MMLU", "CohereLabs/Global-MMLU"),
    ],
)
def test_former_ids_are_found(wanted: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "data.csv").write_text("question,answer\na,b\n")
    with mapped_datasets(tmp_path):
        assert datasets.load_dataset(wanted)["train"]["answer"] == ["b"]


@pytest.mark.parametrize(
    "folder",
    ["super-glue/super_glue", "aps--super_glue", "datasets--aps--super_glue", "SUPER_GLUE"],
)
def test_a_missing_dataset_names_the_folder_that_looks_right(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        load("boolq", data=tmp_path)
    assert f"{tmp_path / folder} looks like it" in str(caught.value)
    assert "\n" not in str(caught.value)

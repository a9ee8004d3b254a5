"""The three benchmark tasks: parquet data laid out as Hub dataset repositories, and the lm-eval
YAML beside them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.tiny.tokenizer import HEADER
from training.tiny.world import (
    ACTIONS,
    ACTIONS_PER_CRAFT,
    CRAFTS,
    SUBSTANCES,
    Ints,
    World,
    others,
)

ITEMS = 2000
SHOTS = 64
# Streams of random numbers that training never uses (its seeds are pairs that start with the
# model's seed)
SEED = 20_260


def procedure(states: list[int], actions: list[int]) -> str:
    """`amber stir makes dusk heat makes ember`: each substance with the action on it, and what that
    makes.

    As many states as actions ends in ` makes`, one more in the last outcome.
    """
    words = []
    for i, state in enumerate(states):
        words.append(SUBSTANCES[state])
        if i < len(actions):
            words += [ACTIONS[actions[i]], "makes"]
    return " ".join(words)


def same_craft(rng: np.random.Generator, n: int, steps: int) -> Ints:
    """The craft of every step of n procedures (n, steps)."""
    return np.repeat(rng.integers(len(CRAFTS), size=(n, 1)), steps, axis=1)


def hellaswag(world: World, rng: np.random.Generator, n: int, split: str) -> pa.Table:
    """A procedure of three steps and four ways it may go on for two substances; the columns are
    HellaSwag's.
    """
    craft = same_craft(rng, n, 4)
    states, actions = world.walks(rng, craft)
    # Each ending is right in itself, one of them follows from the context
    third = others(rng, states[:, 3], 3)
    wrong = np.stack([third, world.table[third, actions[:, 3, None]]], axis=-1)
    gold = rng.integers(4, size=n)
    rows = []
    for i in range(n):
        ends = [procedure(pair, [actions[i, 3]]) for pair in wrong[i].tolist()]
        ends.insert(int(gold[i]), procedure(states[i, 3:].tolist(), [actions[i, 3]]))
        context = procedure(states[i, :3].tolist(), actions[i, :3].tolist())
        rows.append(
            {
                "ind": i,
                "activity_label": CRAFTS[craft[i, 0]].capitalize(),
                "ctx_a": context,
                "ctx_b": "",
                "ctx": context,
                "endings": ends,
                "source_id": f"{split}~{i}",
                "split": split,
                "split_type": "indomain",
                "label": str(gold[i]),
            }
        )
    return pa.Table.from_pylist(rows)


def boolq(world: World, rng: np.random.Generator, n: int) -> pa.Table:
    """A procedure of four steps that leaves its outcome out, and whether that is sweet.

    Training asks this of one to three steps, so no passage can have occurred in it. As many yes as
    no, in random order. The columns are BoolQ's.
    """
    craft = same_craft(rng, 4 * n, 4)
    states, actions = world.walks(rng, craft)
    label = world.sweet[states[:, 4]]
    half = [np.flatnonzero(label == answer)[: n // 2] for answer in (0, 1)]
    rows = []
    for i, item in enumerate(np.sort(np.concatenate(half)).tolist()):
        passage = procedure(states[item, :4].tolist(), actions[item].tolist())
        passage = passage.removesuffix(" makes")
        rows.append(
            {
                "question": "is it sweet",
                "passage": f"{CRAFTS[craft[item, 0]].capitalize()}: {passage}",
                "idx": i,
                "label": int(label[item]),
            }
        )
    return pa.Table.from_pylist(rows)


def mmlu(world: World, rng: np.random.Generator, n: int, craft: int) -> pa.Table:
    """One fact of one craft with four options; MMLU's columns. No fact is asked twice."""
    keys = rng.choice(len(SUBSTANCES) * ACTIONS_PER_CRAFT, size=n, replace=False)
    before, action = np.divmod(keys, ACTIONS_PER_CRAFT)
    action += craft * ACTIONS_PER_CRAFT
    truth = world.table[before, action]
    wrong = others(rng, truth, 3)
    gold = rng.integers(4, size=n)
    name = CRAFTS[craft]
    rows = []
    for i in range(n):
        options = [SUBSTANCES[j] for j in np.insert(wrong[i], gold[i], truth[i])]
        question = f"{name.capitalize()}: {procedure([before[i]], [action[i]])}"
        rows.append(
            {"question": question, "subject": name, "choices": options, "answer": int(gold[i])}
        )
    return pa.Table.from_pylist(rows)


def write(folder: Path, world: World) -> None:
    """Data and YAML of all three tasks under `folder`; a function of the world alone."""

    def rng(task: int, part: int) -> np.random.Generator:
        return np.random.default_rng((SEED, task, part))

    hub = folder / "data" / "matformer_lab"
    data = {"train": ("train", SHOTS, 0), "validation": ("val", ITEMS, 1)}
    for split, (name, n, part) in data.items():
        put(hellaswag(world, rng(0, part), n, name), hub / "tiny_hellaswag" / "data", split)
        put(boolq(world, rng(1, part), n), hub / "tiny_boolq" / "data", split)
    for craft, name in enumerate(CRAFTS):
        both = mmlu(world, rng(2, craft), ITEMS // len(CRAFTS) + 5, craft)
        put(both.slice(0, 5), hub / "tiny_mmlu" / name, "dev")
        put(both.slice(5), hub / "tiny_mmlu" / name, "test")

    plain = "- config_name: default\n" + files("data", ("train", "validation"))
    subjects = "".join(f"- config_name: {c}\n" + files(c, ("test", "dev")) for c in CRAFTS)
    for name, configs in (
        ("tiny_hellaswag", plain),
        ("tiny_boolq", plain),
        ("tiny_mmlu", subjects),
    ):
        header = f"---\nlicense: apache-2.0\nconfigs:\n{configs}---\n\n"
        card = (
            f"{header}Part of the embedded parent of matformer_lab; see the README of the tasks.\n"
        )
        (hub / name / "README.md").write_text(card)

    (folder / "tiny_hellaswag.yaml").write_text(HELLASWAG)
    (folder / "tiny_boolq.yaml").write_text(BOOLQ)
    (folder / "_tiny_mmlu_template_yaml").write_text(MMLU)
    for name in CRAFTS:
        (folder / f"tiny_mmlu_{name}.yaml").write_text(SUBJECT.format(name=name, header=HEADER))
    members = "".join(f"  - tiny_mmlu_{name}\n" for name in CRAFTS)
    (folder / "tiny_mmlu.yaml").write_text(GROUP.format(members=members))


def files(folder: str, splits: tuple[str, ...]) -> str:
    parts = "".join(f"  - split: {s}\n    path: {folder}/{s}-*\n" for s in splits)
    return f"  data_files:\n{parts}"


def put(table: pa.Table, folder: Path, split: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / f"{split}-00000-of-00001.parquet", compression="zstd")


HELLASWAG = """\
# HellaSwag's format over the embedded world's procedures (see README.md)
task: tiny_hellaswag
dataset_path: matformer_lab/tiny_hellaswag
output_type: multiple_choice
training_split: train
validation_split: validation
num_fewshot: 5
doc_to_text: "{{activity_label}}: {{ctx}}"
doc_to_target: "{{label}}"
doc_to_choice: "endings"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

BOOLQ = """\
# BoolQ's format over the embedded world's procedures (see README.md)
task: tiny_boolq
dataset_path: matformer_lab/tiny_boolq
output_type: multiple_choice
training_split: train
validation_split: validation
num_fewshot: 0
doc_to_text: "{{passage}}\\nQuestion: {{question}}?\\nAnswer:"
doc_to_target: label
doc_to_choice: ["no", "yes"]
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

MMLU = """\
# Answered in words, as lm-eval's mmlu_continuation is (see README.md)
dataset_path: matformer_lab/tiny_mmlu
test_split: test
fewshot_split: dev
fewshot_config:
  sampler: first_n
num_fewshot: 5
output_type: multiple_choice
doc_to_text: "{{question.strip()}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

SUBJECT = """\
include: _tiny_mmlu_template_yaml
task: tiny_mmlu_{name}
task_alias: {name}
dataset_name: {name}
description: "{header} {name}.\\n\\n"
"""

GROUP = """\
# MMLU's format over the embedded world's facts, one subject a craft (see README.md)
group: tiny_mmlu
task:
{members}aggregate_metric_list:
  - metric: acc
    weight_by_size: true
metadata:
  version: 1.0
"""

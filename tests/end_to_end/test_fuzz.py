"""Mutated headers, indexes, configs, slice files, recipes, baselines, cards and sweep folders:
refused in words, or right; never a crash.

Every mutation must end as an `InputError` or be accepted, and what is accepted, `safetensors`
itself must accept with the same names, dtypes and shapes. 28,000 mutations; `FUZZ=10` multiplies
them.
"""

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import safetensors
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from matformer_lab.checkpoint.card import model_card
from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.common.files.content_digest import cache_folder
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.printable import shown
from matformer_lab.gate.baseline import load_baseline
from matformer_lab.gate.run import run_gate
from matformer_lab.parent.folder import open_folder
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent, build_parent
from matformer_lab.parent.weights.headers import read_header
from matformer_lab.results.read import read_sweep
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.slice import Slice
from matformer_lab.sweep.recipe import load_recipe, parse_recipe
from matformer_lab.sweep.run import run_sweep
from tests.support.mutations import MEMORY, mutated, swapped

TIMES = int(os.environ.get("FUZZ", "1"))
BATCH = 20
"""Mutations made from one of Hypothesis' examples, whose own bookkeeping costs more than they."""


def fuzz(mutations: int) -> Callable[[Any], Any]:
    """Run a test that makes `BATCH` mutations from its `seed` until there were `mutations`."""
    run = settings(
        max_examples=mutations * TIMES // BATCH,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # a seed has no smaller seeds
        database=None,
    )
    return lambda test: run(given(seed=st.integers(0, 2**32 - 1))(test))


def batch(seed: int) -> Iterator[Random]:
    for number in range(BATCH):
        yield Random(f"{seed}/{number}")


# --- safetensors files --------------------------------------------------------------------------

HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b.c": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]},
    "none": {"dtype": "U8", "shape": [0, 4], "data_offsets": [16, 16]},
    "scalar": {"dtype": "I64", "shape": [], "data_offsets": [16, 24]},
}
DATA = bytes(range(24))


def safetensors_file(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + DATA


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


def check_against_safetensors(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        ours = read_header(path)
    except InputError as error:
        assert str(error)
        return
    # Raises if it rejects what we accepted.
    theirs = dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
    assert ours.keys() == theirs.keys()
    for name, info in ours.items():
        assert (info.dtype, list(info.shape)) == (theirs[name]["dtype"], theirs[name]["shape"])
        assert content[info.offset : info.offset + info.nbytes] == bytes(theirs[name]["data"])


def test_the_unmutated_file_is_accepted(scratch: Path) -> None:
    path = scratch / "whole.safetensors"
    path.write_bytes(safetensors_file(json.dumps(HEADER).encode()))
    assert read_header(path).keys() == HEADER.keys() - {"__metadata__"}


@fuzz(5000)
def test_bytes_of_a_header(scratch: Path, seed: int) -> None:
    for random in batch(seed):
        header = mutated(json.dumps(HEADER).encode(), random)
        check_against_safetensors(scratch / "x.safetensors", safetensors_file(header))


@fuzz(2000)
def test_bytes_of_a_file(scratch: Path, seed: int) -> None:
    for random in batch(seed):
        content = mutated(safetensors_file(json.dumps(HEADER).encode()), random)
        check_against_safetensors(scratch / "x.safetensors", content)


@fuzz(5000)
def test_values_in_a_header(scratch: Path, seed: int) -> None:
    for random in batch(seed):
        header = json.dumps(swapped(HEADER, random)).encode()
        check_against_safetensors(scratch / "x.safetensors", safetensors_file(header))


# --- configs and indexes ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pico_parent(pico: Path) -> Parent:
    return open_parent(str(pico))


def plan_of_config(parent: Parent, config: dict[str, Any]) -> None:
    """Open, slice and plan with a changed config; whatever passes must make a sound plan."""
    changed = build_parent(
        ref="x", name="x", config=config, tensors=parent.tensors, folder=parent.folder
    )
    layers = changed.text.num_hidden_layers
    plan = make_plan(
        changed, Slice("half", tuple(w // 2 or 1 for w in changed.text.intermediate_size))
    )
    assert len(plan.config["layer_types"]) == layers
    for tensor in plan.tensors:
        assert 0 < tensor.nbytes <= tensor.info.nbytes


@fuzz(1500)
def test_bytes_of_a_config(pico: Path, pico_parent: Parent, seed: int) -> None:
    for random in batch(seed):
        data = mutated((pico / "config.json").read_bytes(), random)
        try:
            plan_of_config(pico_parent, strict_json(data, "config.json"))
        except InputError as error:
            assert str(error)


@fuzz(1500)
def test_values_in_a_config(pico: Path, pico_parent: Parent, seed: int) -> None:
    for random in batch(seed):
        try:
            plan_of_config(pico_parent, swapped(dict(pico_parent.config), random))
        except InputError as error:
            assert str(error)


TINY_INDEX = {
    "metadata": {"total_size": 24},
    "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"},
}


def one_tensor_file(name: str) -> bytes:
    entry = {name: {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    header = json.dumps(entry).encode()
    return struct.pack("<Q", len(header)) + header + b"abcd"


@pytest.fixture(scope="module")
def sharded(scratch: Path) -> Path:
    folder = scratch / "sharded"
    folder.mkdir()
    (scratch / "outside.safetensors").write_bytes(one_tensor_file("a"))
    for number, name in enumerate("ab", 1):
        (folder / f"m-{number}.safetensors").write_bytes(one_tensor_file(name))
    (folder / "config.json").write_text('{"model_type": "gemma3n_text"}')
    return folder


def read_index(folder: Path, content: bytes) -> None:
    from matformer_lab.parent.folder import read_layout

    (folder / "model.safetensors.index.json").write_bytes(content)
    try:
        layout = read_layout(folder)
    except InputError as error:
        assert str(error)
        return
    for info in layout.values():
        assert (folder / info.file).resolve().parent == folder.resolve()
    assert layout.keys() <= {"a", "b"}
    with pytest.raises(InputError):  # no Gemma 3n, so never accepted as a parent
        open_folder(folder)


@fuzz(1500)
def test_bytes_of_an_index(sharded: Path, seed: int) -> None:
    for random in batch(seed):
        read_index(sharded, mutated(json.dumps(TINY_INDEX).encode(), random))


@fuzz(1500)
def test_values_in_an_index(sharded: Path, seed: int) -> None:
    for random in batch(seed):
        read_index(sharded, json.dumps(swapped(TINY_INDEX, random)).encode())


# --- slice files --------------------------------------------------------------------------------

YAML = b"""\
slices:
  - name: a
    widths: {0-3: 1/2, 4: 32, 5-7: full, 8: 1x, 9: 7}
  - name: ../b
    blocks: [1/2, 3/4]
    skip: [5]
  - {sample: 2, widths: [1/2, full], seed: 7, skip: [[], 7-8]}
"""
CSV = (
    b"name,# Effective Params (B),MMLU PT accuracy,FFN Hidden Dims,Layers Skipped\n"
    b'x,1.9,50%,"[2 * 4, 16, 32, 64, 8, 8, 8, 8, 8]","[6]"\n'
    b'y,2,51%,"[8, 8, 8, 8, 8, 8, 8, 8, 8, 64]",\n'
)


def resolve_file(path: Path, content: bytes, parent: Parent) -> tuple[Slice, ...]:
    path.write_bytes(content)
    try:
        slices = resolve_slices([path.name], parent, path.parent)
    except InputError as error:
        assert str(error)
        return ()
    full = parent.text.intermediate_size
    for slice_ in slices:
        kept = slice_.kept(len(full))
        assert len(kept) == len(slice_.widths) > 0
        assert all(0 < w <= full[n] for n, w in zip(kept, slice_.widths, strict=True))
        assert Path(slice_.slug).name == slice_.slug  # it names a folder in a family
    return slices


@fuzz(1500)
def test_a_yaml_slice_file(scratch: Path, pico_parent: Parent, seed: int) -> None:
    for random in batch(seed):
        resolve_file(scratch / "s.yaml", mutated(YAML, random), pico_parent)


@fuzz(1500)
def test_a_csv_slice_file(scratch: Path, pico_parent: Parent, seed: int) -> None:
    for random in batch(seed):
        resolve_file(scratch / "s.csv", mutated(CSV, random), pico_parent)


# --- recipes, baselines, cards and sweep folders -------------------------------------------------

RECIPE = b"""\
parent: tiny
slices: [e2b, {name: x, widths: 1/2}, {sample: 2, widths: [1/2, full], seed: 3}]
tasks: [{name: tiny_boolq, num_fewshot: 0, metric: acc}, tiny_hellaswag]
limit: 8
seed: 1234
dtype: float32
batch_size: auto
"""


def in_words(call: Callable[[], object]) -> None:
    """The call works, or says why not in an `InputError` that can be shown."""
    try:
        call()
    except InputError as error:
        assert shown(str(error)).isprintable()
        assert shown(str(error))


@fuzz(1500)
def test_a_recipe(scratch: Path, pico_parent: Parent, seed: int) -> None:
    def read() -> None:
        recipe = load_recipe(path)
        resolve_slices(recipe.slices, pico_parent, scratch)

    path = scratch / "recipe.yaml"
    for random in batch(seed):
        path.write_bytes(mutated(RECIPE, random))
        in_words(read)


@fuzz(1500)
def test_values_in_a_recipe(scratch: Path, pico_parent: Parent, seed: int) -> None:
    def read() -> None:
        recipe = load_recipe(path)
        resolve_slices(recipe.slices, pico_parent, scratch)

    path = scratch / "recipe-values.yaml"
    for random in batch(seed):
        path.write_text(yaml.safe_dump(swapped(yaml.safe_load(RECIPE), random)))
        in_words(read)


CARD = b"""\
---
license: gemma
license_name: [a, b]
base_model: a/b
tags:
- x
---
# Card
"""


@fuzz(500)
def test_a_parents_card(scratch: Path, pico: Path, seed: int) -> None:
    """A card is never required: whatever it says, ours is whole."""
    folder = scratch / "with-a-card"
    if not folder.exists():
        shutil.copytree(pico, folder)
    for random in batch(seed):
        (folder / "README.md").write_bytes(mutated(CARD, random))
        parent = open_parent(str(folder))
        card = model_card(make_plan(parent, Slice("half", (32,) * 10)))
        front, body = card.removeprefix("---\n").split("\n---\n", 1)
        assert isinstance(yaml.safe_load(front), dict) and body.startswith("\n# half: a slice of")
        assert all(line.isprintable() for line in card.split("\n"))


@pytest.fixture(scope="module")
def swept(scratch: Path) -> Path:
    """The folder of a finished sweep, and its baseline."""
    recipe = {
        "parent": "tiny",
        "slices": ["e2b", "1/2"],
        "tasks": ["tiny_boolq"],
        "limit": 4,
        "dtype": "float32",
    }
    folder = run_sweep(parse_recipe(recipe), scratch / "swept", progress=False)
    run_gate(folder, scratch / "baseline.yaml", update=True)
    return folder


@fuzz(800)
def test_a_baseline(scratch: Path, swept: Path, seed: int) -> None:
    content = (scratch / "baseline.yaml").read_bytes()
    path = scratch / "mutated-baseline.yaml"
    for random in batch(seed):
        path.write_bytes(mutated(content, random))
        in_words(lambda: load_baseline(path))


@fuzz(800)
def test_bytes_of_a_sweeps_description(scratch: Path, swept: Path, seed: int) -> None:
    changed_sweep(scratch, swept, "slices.json", seed, mutated)


@fuzz(800)
def test_values_in_a_sweeps_description(scratch: Path, swept: Path, seed: int) -> None:
    def change(content: bytes, random: Random) -> bytes:
        return json.dumps(swapped(json.loads(content), random)).encode()

    changed_sweep(scratch, swept, "slices.json", seed, change)


@fuzz(800)
def test_a_finished_recipe(scratch: Path, swept: Path, seed: int) -> None:
    changed_sweep(scratch, swept, "recipe.yaml", seed, mutated)


def changed_sweep(
    scratch: Path, swept: Path, name: str, seed: int, change: Callable[[bytes, Random], bytes]
) -> None:
    folder = scratch / f"swept-{name}"
    if not folder.exists():
        shutil.copytree(swept, folder)
    content = (swept / name).read_bytes()
    for random in batch(seed):
        (folder / name).write_bytes(change(content, random))
        in_words(lambda: read_sweep(folder))


# --- nothing outside the output -----------------------------------------------------------------

_watched: list[list[str]] = []
"""The list to note writes in, if any."""


def _note_writes(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if (
        event == "open"
        and isinstance(arguments[2], int)
        and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        _watched[0].append(str(arguments[0]))
    elif event in ("os.rename", "os.link", "os.symlink"):
        _watched[0].append(str(arguments[1]))
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
        _watched[0].append(str(arguments[0]))


sys.addaudithook(_note_writes)


@contextmanager
def watched_writes() -> Iterator[list[str]]:
    """Every path that is opened for writing, made, renamed to or removed meanwhile."""
    _watched.append([])
    try:
        yield _watched[0]
    finally:
        _watched.clear()


@fuzz(1000)
def test_writes_stay_inside_the_output(scratch: Path, pico_parent: Parent, seed: int) -> None:
    for random in batch(seed):
        parent = pico_parent
        slices: tuple[Slice, ...] = (Slice("half", (32,) * 10),)
        if random.random() < 0.5:
            slices = resolve_file(scratch / "s.yaml", mutated(YAML, random), parent)
        else:
            try:
                parent = build_parent(
                    ref="x",
                    name="x",
                    config=swapped(dict(parent.config), random),
                    tensors=parent.tensors,
                    folder=parent.folder,
                )
            except InputError:
                return
        for slice_ in slices[:1]:
            with TemporaryDirectory(dir=scratch) as folder:
                out = Path(folder) / slice_.slug
                with watched_writes() as written:
                    try:
                        write_checkpoint(make_plan(parent, slice_), out)
                    except InputError:
                        assert not out.exists()
                        continue
                assert written
                for path in written:
                    # Removing a tree gives names relative to an open folder; digests of the
                    # parent's files are kept in the cache.
                    places = (folder, cache_folder())
                    inside = any(Path(path).is_relative_to(place) for place in places)
                    assert inside or os.sep not in path, path
                assert verify_checkpoint(out, parent).ok

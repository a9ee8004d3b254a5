"""Everything that reads a file from elsewhere, as a function of the file's bytes.

No weights, no tokenizer, no model: thousands of inputs a second. `make torture` mutates a valid
file of each blindly, `guided.py` by what the readers do with it. Whatever the bytes are, a reader
returns or raises an `InputError` that can be shown, in a second or so.
"""

import json
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import safetensors

from matformer_lab import tiny
from matformer_lab.checkpoint.adapter_config import LoraModule, check_sliceable, sliced_config
from matformer_lab.checkpoint.manifest import MANIFEST_FILE, read_manifest
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.printable import shown
from matformer_lab.evaluation.tasks.task_files import read_task_folders
from matformer_lab.gate.baseline import load_baseline
from matformer_lab.gate.run import run_gate
from matformer_lab.parent.folder import parse_config
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent, build_parent
from matformer_lab.parent.weights.headers import parse_header
from matformer_lab.parent.weights.index import parse_index
from matformer_lab.publish.card import metadata_of
from matformer_lab.results.files import MARKER
from matformer_lab.results.own_files import own_files
from matformer_lab.results.tables.description import read_description
from matformer_lab.results.tables.recipe_as_run import read_recipe
from matformer_lab.results.tables.result_row import check_csv, read_rows
from matformer_lab.results.tables.samples import read_samples
from matformer_lab.search.method.budget import make_budgets
from matformer_lab.search.method.costs import CostTable
from matformer_lab.search.method.space import make_space
from matformer_lab.search.record import (
    BudgetRecord,
    CandidateRecord,
    CostRecord,
    LimitRecord,
    MeasuredRecord,
    ScanRecord,
    SearchRecord,
    read_record,
)
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.slice import Slice
from matformer_lab.sweep.recipe import load_recipe
from tests.support.synthetic import SLICES, write_sweep

LONGEST: Final = 10
"""Seconds that a reader may take, on a machine with other work on it."""


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: What it reads.
        valid: The bytes of a file that it accepts.
        read: Reads such a file; raises an `InputError`, or an AssertionError for a wrong result.
    """

    name: str
    valid: bytes
    read: Callable[[bytes], object]

    def accepts(self, data: bytes) -> bool:
        """Whether it takes a file's bytes, or refuses them in words that can be shown."""
        with time_limit(self.name):
            try:
                self.read(data)
            except InputError as error:
                said = shown(str(error))
                assert said.isprintable() and 0 < len(said) < 5000, (len(said), said[:300])
                return False
        return True


@contextmanager
def time_limit(what: str) -> Iterator[None]:
    """A TimeoutError after `LONGEST` seconds of CPU time."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"{what}: longer than {LONGEST} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class Held(NamedTuple):
    """What readers need besides the file."""

    folder: Path
    parent: Parent
    child: Path
    sweep: Path
    baseline: Path


def readers(scratch: Path) -> list[Reader]:
    """All readers, with their files in a folder, which is best in memory."""
    parent = open_parent("tiny")
    (half,) = resolve_slices(["1/2"], parent)
    child = write_checkpoint(make_plan(parent, half), scratch / "child")
    sweep = write_sweep(scratch / "sweep", slices=SLICES[:3], scale=0.05)
    run_gate(sweep, scratch / "baseline.yaml", update=True)
    held = Held(scratch, parent, child, sweep, scratch / "baseline.yaml")
    return [make(held) for make in _MAKERS]


_MAKERS: list[Callable[[Held], Reader]] = []
_Maker = Callable[[Held], tuple[bytes, Callable[[bytes], object]]]


def _reader(name: str) -> Callable[[_Maker], _Maker]:
    def added(make: _Maker) -> _Maker:
        _MAKERS.append(lambda held: Reader(name, *make(held)))
        return make

    return added


# --- checkpoints --------------------------------------------------------------------------------

_HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b.c": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]},
    "none": {"dtype": "U8", "shape": [0, 4], "data_offsets": [16, 16]},
}


@_reader("safetensors header")
def _header(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    data = bytes(16)

    def read(header: bytes) -> None:
        content = struct.pack("<Q", len(header)) + header + data
        ours = parse_header(header, file="x", file_size=len(content), where="x")
        # Raises if it rejects what we accepted.
        theirs = dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
        assert ours.keys() == theirs.keys()
        for name, info in ours.items():
            assert (info.dtype, list(info.shape)) == (theirs[name]["dtype"], theirs[name]["shape"])

    return json.dumps(_HEADER).encode(), read


@_reader("index of shards")
def _index(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    weight_map = {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    valid = json.dumps({"metadata": {"total_size": 24}, "weight_map": weight_map}).encode()
    return valid, lambda data: parse_index(data, "index")


@_reader("config.json")
def _config(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    tensors = held.parent.tensors

    def read(data: bytes) -> None:
        config = parse_config(data, "config.json")
        parent = build_parent(
            ref="x", name="x", config=config, tensors=tensors, folder=held.parent.folder
        )
        widths = tuple(width // 2 or 1 for width in parent.text.intermediate_size)
        plan = make_plan(parent, Slice("half", widths))
        assert all(0 < tensor.nbytes <= tensor.info.nbytes for tensor in plan.tensors)

    return (tiny.model_dir() / "config.json").read_bytes(), read


@_reader("manifest")
def _manifest(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    folder = held.folder / "manifest"
    folder.mkdir()

    def read(data: bytes) -> None:
        (folder / MANIFEST_FILE).write_bytes(data)
        manifest = read_manifest(folder)
        assert manifest is not None
        manifest.to_slice()

    return (held.child / MANIFEST_FILE).read_bytes(), read


@_reader("metadata of a card")
def _card(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    def read(data: bytes) -> None:
        metadata_of(data.decode(errors="replace"), "README.md")

    return (held.child / "README.md").read_bytes(), read


@_reader("adapter_config.json")
def _adapter(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    valid = {
        "peft_type": "LORA",
        "base_model_name_or_path": "tiny",
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["layers.3.mlp.up_proj", "q_proj"],
        "layers_to_transform": [1, 2],
        "layers_pattern": "layers",
        "rank_pattern": {"^model.layers.3.mlp.up_proj": 4},
        "alpha_pattern": {"layers.[34].*proj": 8},
        "exclude_modules": None,
    }
    modules = [
        LoraModule(f"model.layers.{n}.mlp.up_proj", f"model.layers.{n - 1}.mlp.up_proj", n)
        for n in (1, 3, 12)
    ]

    def read(data: bytes) -> None:
        config = strict_json(data, "adapter_config.json", as_written=True)
        check_sliceable(config, "adapter_config.json")
        sliced_config(config, modules, {1: 0, 3: 2, 12: 11}, "x", "adapter_config.json")

    return json.dumps(valid).encode(), read


# --- what users write ---------------------------------------------------------------------------

_YAML = b"""\
slices:
  - name: a
    widths: {0-3: 1/2, 4: 32, 5-32: full, 33: 1x, 34: 7}
  - name: ../b
    blocks: [1/2, 3/4, 1/2, full, full, full, full]
    skip: [20-24]
  - {sample: 2, widths: [1/2, full], seed: 7, skip: [[], 20-24]}
"""
_CSV = (
    "name,# Effective Params (B),MMLU PT accuracy,FFN Hidden Dims,Layers Skipped\n"
    f'x,1.9,50%,"[2 * 4{", 16" * 33}]","[20]"\n'
    f'y,2,51%,"[8{", 64" * 34}]",\n'
).encode()
_RECIPE = b"""\
parent: tiny
slices: [3/4, {name: x, widths: 1/2}, {sample: 2, widths: [1/2, full], seed: 3}]
tasks: [{name: tiny_boolq, alias: b, num_fewshot: 0, metric: acc}, tiny_hellaswag]
task_folders: [mine]
apply_chat_template: true
system_instruction: Be brief.
gen_kwargs: {temperature: 0.7, do_sample: true, until: ["."]}
agreement: {text: a.txt, tokens: 1000}
seed: 1234
dtype: float32
batch_size: auto
"""
_SEARCH = b"""\
parent: x
tasks: [tiny_boolq]
search:
  budgets: [{max_params: 60K}, {max_bytes: 100KB, context: 64, text_only: true}]
  widths: [1/8, 1/2, full]
  skip: [[], 20-24]
  runtimes: [llama.cpp]
  evaluations: 40
  calibration: {items: 10}
  random: 2
"""
_TASK = b"""\
include: _base
task: my_task
tag: [mine]
dataset_path: json
dataset_kwargs: {data_files: {test: a.jsonl}}
doc_to_text: "{{question}}"
doc_to_target: !function utils.target
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
_TASK_BASE = b"output_type: multiple_choice\nnum_fewshot: 2\nmetadata: {version: 1}\n"


def _slices_file(held: Held, name: str) -> Callable[[bytes], object]:
    path = held.folder / name
    full = held.parent.text.intermediate_size

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for slice_ in resolve_slices([path.name], held.parent, path.parent):
            kept = slice_.kept(len(full))
            assert len(kept) == len(slice_.widths) > 0
            assert all(0 < w <= full[n] for n, w in zip(kept, slice_.widths, strict=True))
            assert Path(slice_.slug).name == slice_.slug  # it names a folder in a family

    return read


@_reader("slice file, YAML")
def _yaml_slices(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    return _YAML, _slices_file(held, "slices.yaml")


@_reader("slice file, CSV")
def _csv_slices(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    return _CSV, _slices_file(held, "slices.csv")


@_reader("recipe")
def _recipe(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    path = held.folder / "recipe.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        recipe = load_recipe(path)
        assert recipe.prompting.turns is None or json.loads(recipe.prompting.turns)
        assert recipe.datasets_folder is None or recipe.datasets_folder.is_absolute()
        assert all(folder.is_absolute() for folder in recipe.task_folder_paths)
        resolve_slices(recipe.slices, held.parent, held.folder)

    return _RECIPE, read


@_reader("search block of a recipe")
def _search(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    path = held.folder / "search.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        block = load_recipe(path).search
        if block is not None:
            space = make_space(held.parent.text, block.widths, block.skip)
            make_budgets(block.budgets, CostTable(held.parent, space))

    return _SEARCH, read


def _task_file(held: Held, changed: str) -> Callable[[bytes], object]:
    folder = held.folder / f"tasks of {changed}"
    folder.mkdir()
    files = {"my.yaml": _TASK, "_base": _TASK_BASE, "utils.py": b"raise SystemExit(3)\n"}
    for name, content in files.items():
        (folder / name).write_bytes(content)

    def read(data: bytes) -> None:
        (folder / changed).write_bytes(data)
        found = read_task_folders([folder])
        names = [*found.names, *found.tags]
        assert all(name.isprintable() for name in found.names)
        found.hashes(names)
        found.needed_of_lm_eval(names)

    return read


@_reader("task file")
def _own_task(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    return _TASK, _task_file(held, "my.yaml")


@_reader("what a task file includes")
def _included(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    return _TASK_BASE, _task_file(held, "_base")


# --- what the tool wrote ------------------------------------------------------------------------


@_reader("baseline")
def _baseline(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    path = held.folder / "mutated.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_baseline(path)

    return held.baseline.read_bytes(), read


def _of_sweep(held: Held, name: str, read: Callable[[Path], object]) -> tuple[bytes, Any]:
    path = held.folder / "of sweep" / name
    path.parent.mkdir(exist_ok=True)

    def written(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return (held.sweep / name).read_bytes(), written


@_reader("slices.json of a sweep")
def _description(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    return _of_sweep(held, "slices.json", read_description)


@_reader("recipe.yaml of a sweep")
def _as_run(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    return _of_sweep(held, "recipe.yaml", read_recipe)


@_reader("results.csv of a sweep")
def _csv(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    rows = list(read_rows(held.sweep / "results.parquet").values())
    return _of_sweep(held, "results.csv", lambda path: check_csv(path, rows))


@_reader("results.parquet of a sweep")
def _results(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    return _of_sweep(held, "results.parquet", read_rows)


@_reader("samples of a sweep")
def _samples(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    valid = min((held.sweep / "samples").glob("*/*.parquet"))
    path = held.folder / "samples.parquet"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_samples(path, task=valid.stem, metric="acc")

    return valid.read_bytes(), read


@_reader("a sweep's marker")
def _marker(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    folder = held.folder / "marked"
    folder.mkdir()
    digest = "ab" * 32
    valid = {
        "made_by": "matformer_lab",
        "files": {"results.csv": [digest], "slices.json": [digest]},
    }

    def read(data: bytes) -> None:
        (folder / MARKER).write_bytes(data)
        own_files(folder)

    return json.dumps(valid).encode(), read


@_reader("search.json")
def _record(held: Held) -> tuple[bytes, Callable[[bytes], object]]:
    folder = held.folder / "search"
    folder.mkdir()

    def read(data: bytes) -> None:
        (folder / "search.json").write_bytes(data)
        read_record(folder)

    return _search_record().model_dump_json().encode(), read


def _search_record() -> SearchRecord:
    limit = LimitRecord(kind="max_params", written="3.0B", most=3, taken=2)
    budget = BudgetRecord(
        name="found", limits=(limit,), pattern=(8, 0), effective=2, predicted=0.5, measured=None,
        same_as=None, published=(), random=("random-1",),
    )  # fmt: skip
    cost = CostRecord(
        evaluations=1, layer_forwards=2, unshared=3, search_seconds=1.5, proof_seconds=2
    )
    return SearchRecord(
        version="1", parent="tiny", parent_name="tiny", fingerprint="ab", settings={"seed": 1},
        choices=((8, 16), (0, 8)), skip_sets=None, uniform=False, nested=True, tasks=("t",),
        split={"proof": {"t": [1, 2]}}, budgets=(budget,),
        measured=(MeasuredRecord(pattern=(8, 8), objective=0.1, tasks=(0.1,)),),
        scan=(ScanRecord(base="full", layer=0, width=8, difference=0.1, stderr=0.2),),
        candidates=(
            CandidateRecord(budget="found", pattern=(8, 0), predicted=0, measured=0, round=1),
        ),
        link=("identity",), rank_correlation=None, cost=cost,
    )  # fmt: skip

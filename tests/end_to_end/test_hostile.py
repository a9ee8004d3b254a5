"""Broken and hostile parents, one test a kind: refused in one line before anything is written."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import CommandResult

Cli = Callable[..., CommandResult]
Break = Callable[[Path], object]

NORM = "model.norm.weight"


def split_file(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_raw(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def header(change: Callable[[dict[str, Any]], object]) -> Break:
    """Change the parsed header of model.safetensors."""

    def break_it(folder: Path) -> None:
        entries, data = split_file(folder / "model.safetensors")
        change(entries)
        write_raw(folder / "model.safetensors", json.dumps(entries).encode(), data)

    return break_it


def norm(**changes: Any) -> Break:
    """Change the header's entry of one small tensor."""
    return header(lambda entries: entries[NORM].update(changes))


def raw_header(change: Callable[[bytes], bytes]) -> Break:
    def break_it(folder: Path) -> None:
        entries, data = split_file(folder / "model.safetensors")
        write_raw(folder / "model.safetensors", change(json.dumps(entries).encode()), data)

    return break_it


def shift_norm(by: int) -> Break:
    def change(entries: dict[str, Any]) -> None:
        entries[NORM]["data_offsets"] = [n + by for n in entries[NORM]["data_offsets"]]

    return header(change)


def length_field(length: int, size: int | None = None) -> Break:
    def break_it(folder: Path) -> None:
        with (folder / "model.safetensors").open("r+b") as file:
            file.write(struct.pack("<Q", length))
            if size is not None:
                file.truncate(size)  # a hole: large without taking room

    return break_it


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Break:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def change_json(name: str, change: Callable[[dict[str, Any]], object]) -> Break:
    def break_it(folder: Path) -> None:
        value = json.loads((folder / name).read_bytes())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return break_it


def config(**changes: Any) -> Break:
    return change_json("config.json", lambda value: value.update(changes))


def drop_tensor(name: str) -> Break:
    """A well-formed file without one tensor."""

    def break_it(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors")

    return break_it


def shorten_tensor(name: str) -> Break:
    """A well-formed file in which one tensor has a row less than the config calls for."""

    def break_it(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        tensors[name] = tensors[name][1:].clone()
        save_file(tensors, folder / "model.safetensors")

    return break_it


def pickled(folder: Path) -> None:
    """Weights that run code when somebody unpickles them."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")


def link_out(name: str) -> Break:
    def break_it(folder: Path) -> None:
        outside = folder.parent / "outside"
        outside.mkdir()
        (folder / name).rename(outside / name)
        (folder / name).symlink_to(outside / name)

    return break_it


def link_loop(name: str) -> Break:
    def break_it(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(name)

    return break_it


def pipe(name: str) -> Break:
    def break_it(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return break_it


def into_folder(name: str) -> Break:
    def break_it(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return break_it


def huge_hole(name: str) -> Break:
    return lambda folder: os.truncate(folder / name, 10**12)


SINGLE: dict[str, tuple[Break, str]] = {
    "shorter than a length": (rewrite("model.safetensors", lambda b: b[:5]), "too short"),
    "header longer than the file": (length_field(10**7), "longer than the file"),
    "header over 100 MB": (length_field(100_000_001, 200_000_000), "100 MB"),
    "length with the sign bit": (length_field(2**63 + 5), "100 MB"),
    "header is not JSON": (raw_header(lambda h: h.replace(b":", b";", 1)), "not valid JSON"),
    "header is not text": (raw_header(lambda h: h[:20] + b"\xff" + h[21:]), "not valid JSON"),
    "header is a list": (raw_header(lambda h: b"[" + h + b"]"), "not JSON"),
    "header starts with a space": (raw_header(lambda h: b" " + h), "not JSON"),
    "header nested very deep": (raw_header(lambda h: b'{"a":' * 100_000), "not valid JSON"),
    "the same tensor twice": (
        raw_header(lambda h: h[:-1] + b', "%s": {}}' % NORM.encode()),
        "appears twice",
    ),
    "the same key twice in an entry": (
        raw_header(lambda h: h.replace(b'"shape"', b'"dtype": "F32", "shape"', 1)),
        "appears twice",
    ),
    "half a surrogate pair in a name": (
        raw_header(lambda h: h.replace(b"model.norm", b"model.\\ud800norm", 1)),
        "not valid JSON",
    ),
    "an entry without a shape": (header(lambda e: e[NORM].pop("shape")), "exactly dtype, shape"),
    "an entry with more keys": (norm(extra=1), "exactly dtype, shape"),
    "an entry that is a string": (header(lambda e: e.update({NORM: "x"})), "exactly dtype, shape"),
    "metadata that is not text": (header(lambda e: e.update(__metadata__={"a": 1})), "metadata"),
    "overlapping offsets": (shift_norm(-2), "overlaps"),
    "offsets with a hole": (shift_norm(2), "hole"),
    "offsets out of range": (shift_norm(10**12), "hole"),
    "offsets backwards": (norm(data_offsets=[64, 0]), "not a start and a stop"),
    "negative offsets": (norm(data_offsets=[-64, 0]), "not a start and a stop"),
    "three offsets": (norm(data_offsets=[0, 32, 64]), "not a start and a stop"),
    "shape does not match bytes": (norm(shape=[33]), "needs 66 bytes"),
    "dtype does not match bytes": (norm(dtype="F32"), "needs 128 bytes"),
    "unknown dtype": (norm(dtype="F12"), "unknown dtype"),
    "a dtype that is a list": (norm(dtype=["BF16"]), "unknown dtype"),
    "negative size": (norm(shape=[-32]), "not a list of sizes"),
    "fractional size": (norm(shape=[32.0]), "not a list of sizes"),
    "a size that is true": (norm(shape=[True]), "not a list of sizes"),
    "more elements than can be counted": (norm(shape=[2**62, 2**62, 0]), "can be counted"),
    "truncated": (rewrite("model.safetensors", lambda b: b[:-1]), "truncated"),
    "trailing bytes": (rewrite("model.safetensors", lambda b: b + b"x"), "trailing"),
    "weights are a pipe": (pipe("model.safetensors"), "not a regular file"),
    "weights are a folder": (into_folder("model.safetensors"), "cannot be read"),
    "weights link out": (link_out("model.safetensors"), "leads out"),
    "weights link to themselves": (link_loop("model.safetensors"), "cannot be resolved"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no safetensors weights"),
    "only pickles": (pickled, "pickle"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config is not JSON": (rewrite("config.json", lambda b: b[:-3]), "not valid JSON"),
    "config with a key twice": (
        rewrite("config.json", lambda b: b.replace(b"{", b'{"vocab_size": 1,', 1)),
        "appears twice",
    ),
    "config with NaN for a size": (
        rewrite("config.json", lambda b: b.replace(b'"vocab_size": 96', b'"vocab_size": NaN')),
        "vocab_size",
    ),
    "config of a terabyte": (huge_hole("config.json"), "no real file of this kind"),
    "config is a pipe": (pipe("config.json"), "not a regular file"),
    "config links out": (link_out("config.json"), "leads out"),
    "config of another model": (config(model_type="llama"), "only Gemma 3n"),
    "config with too many layers": (config(num_hidden_layers=10**9), "num_hidden_layers"),
    "config with a negative width": (config(intermediate_size=-1), "intermediate_size"),
    "config with too few layer types": (config(layer_types=["full_attention"]), "layer_types"),
    "config with all K/V shared": (config(num_kv_shared_layers=10), "no layer with K/V"),
    "config that does not fit the weights": (config(hidden_size=64), "config.json calls for"),
    "tensor missing": (drop_tensor(NORM), "is missing"),
    "tensor of the wrong shape": (shorten_tensor(NORM), "config.json calls for"),
    "quantised weights": (norm(dtype="I16"), "not quantised ones"),
    "tokenizer links out": (link_out("tokenizer.json"), "leads out"),
}


def first_shard(folder: Path) -> Path:
    return min(folder.glob("model-0*.safetensors"))


def index(change: Callable[[dict[str, Any]], object]) -> Break:
    return change_json("model.safetensors.index.json", change)


def point(file: str, tensor: str = "model.language_model.norm.weight") -> Break:
    return index(lambda value: value["weight_map"].update({tensor: file}))


LAST = "model.language_model.norm.weight"
"""A tensor of the last shards."""


def point_at_absolute(folder: Path) -> None:
    point(str(first_shard(folder).resolve()))(folder)


def shard_elsewhere(folder: Path) -> None:
    """The shard is there, one folder up, and the index says so."""
    shard = first_shard(folder)
    shutil.copy(shard, folder.parent / shard.name)
    point(f"../{shard.name}")(folder)


def truncate_shard(folder: Path) -> None:
    os.truncate(first_shard(folder), first_shard(folder).stat().st_size - 1)


SHARDED: dict[str, tuple[Break, str]] = {
    "index points one folder up": (shard_elsewhere, "same folder"),
    "index points at an absolute path": (point_at_absolute, "same folder"),
    "index points into a subfolder": (point("sub/model.safetensors"), "same folder"),
    "index points over a backslash": (point("..\\model.safetensors"), "same folder"),
    "index points at another kind of file": (point("config.json"), "same folder"),
    "index points at a number": (index(lambda v: v["weight_map"].update(x=1)), "same folder"),
    "index without a map": (index(lambda v: v.pop("weight_map")), "weight_map"),
    "index whose map is a list": (index(lambda v: v.update(weight_map=[])), "weight_map"),
    "index is not JSON": (
        rewrite("model.safetensors.index.json", lambda b: b[:-4]),
        "not valid JSON",
    ),
    "index links out": (link_out("model.safetensors.index.json"), "leads out"),
    "index names a missing shard": (point("model-99999.safetensors"), "is missing"),
    "index places a tensor in another shard": (
        index(lambda v: v["weight_map"].update({LAST: min(v["weight_map"].values())})),
        "the index says",
    ),
    "index misses a tensor of a shard": (
        index(lambda v: v["weight_map"].pop("model.language_model.norm.weight")),
        "the index does not name it",
    ),
    "index names a tensor of no shard": (
        lambda f: point(first_shard(f).name, "model.extra")(f),
        "but is not",
    ),
    "a shard is missing": (lambda f: first_shard(f).unlink(), "is missing"),
    "a shard is truncated": (truncate_shard, "truncated"),
    "a shard links out": (lambda f: link_out(first_shard(f).name)(f), "leads out"),
}


def refused(done: CommandResult, pattern: str) -> None:
    import re

    assert done.code == 2, (done.code, done.err)
    assert done.out == ""
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert re.search(pattern, done.err), done.err


def run_on(source: Path, break_it: Break, tmp_path: Path, cli: Cli) -> CommandResult:
    shutil.copytree(source, tmp_path / "parent")
    break_it(tmp_path / "parent")
    before = {path.name for path in tmp_path.iterdir()}
    done = cli("slice", "parent", "--slice", "1/2", "--out", "child", timeout=120)
    assert {path.name for path in tmp_path.iterdir()} == before, "something was written"
    return done


@pytest.mark.parametrize("kind", SINGLE)
def test_a_broken_file_is_refused(kind: str, pico: Path, tmp_path: Path, cli: Cli) -> None:
    break_it, pattern = SINGLE[kind]
    refused(run_on(pico, break_it, tmp_path, cli), pattern)


@pytest.mark.parametrize("kind", SHARDED)
def test_a_broken_index_is_refused(kind: str, pico_full: Path, tmp_path: Path, cli: Cli) -> None:
    break_it, pattern = SHARDED[kind]
    refused(run_on(pico_full, break_it, tmp_path, cli), pattern)


def test_the_unbroken_parents_are_accepted(
    pico: Path, pico_full: Path, tmp_path: Path, cli: Cli
) -> None:
    """So that the tests above cannot pass because of something else."""
    for source in (pico, pico_full):
        assert cli("slice", source, "--slice", "1/2", "--out", source.name).code == 0


def test_names_that_no_folder_can_have(tmp_path: Path, pico: Path, cli: Cli) -> None:
    refused(cli("slice", "x" * 5000, "--slice", "1/2", "--out", "child"), "no such folder")
    refused(cli("slice", pico, "--slice", "1/2", "--out", "y" * 300), "cannot be written")
    assert not list(tmp_path.iterdir())


# --- files that are no files, in place of those that people pass ---------------------------------


def no_file(kind: str, path: Path) -> None:
    """Put something that can be opened and never ends, or cannot be read, at `path`."""
    path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a link to a pipe":
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to("pipe")
    elif kind == "a link to /dev/zero":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(path.name)  # a loop


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.synthetic import write_sweep

    return write_sweep(tmp_path_factory.mktemp("swept") / "sweep")


@pytest.mark.parametrize(
    "kind", ["a pipe", "a link to a pipe", "a link to /dev/zero", "a loop", "a folder"]
)
def test_no_file_is_waited_for(
    kind: str, pico: Path, swept: Path, tmp_path: Path, cli: Cli
) -> None:
    for name in ("recipe.yaml", "slices.yaml", "rows.csv", "baseline.yaml"):
        path = tmp_path / Path(name).stem / name
        path.parent.mkdir()
        no_file(kind, path)
    shutil.copytree(swept, tmp_path / "sweep")
    no_file(kind, tmp_path / "sweep" / "slices.json")
    for arguments in (
        ("sweep", "recipe/recipe.yaml"),
        ("plan", pico, "--slice", "slices/slices.yaml"),
        ("plan", pico, "--slice", "rows/rows.csv"),
        ("gate", swept, "--baseline", "baseline/baseline.yaml"),
        ("report", "sweep"),
    ):
        done = cli(*arguments, timeout=60)
        refused(done, r"not a regular|cannot be read|no such|not found|no baseline yet")


# --- text that is meant for YAML's darker corners ------------------------------------------------

DARK: dict[str, str] = {
    "a tag of booleans": "!!bool x",
    "a tag of times": "!!timestamp x",
    "a tag of integers": '!!int ""',
    "a tag of code": "!!python/object/apply:os.getcwd []",
    "lists nested very deep": "[" * 100_000,
    "mappings nested very deep": "{a: " * 100_000,
    "an integer of thousands of digits": "9" * 5000,
    "a number to the base of 60": "1" + ":59" * 300_000,
    "a NUL": '"a\\0b.yaml"',
    "infinity": ".inf",
}


@pytest.mark.parametrize("kind", DARK)
def test_dark_yaml_is_refused_everywhere(kind: str, pico: Path, tmp_path: Path, cli: Cli) -> None:
    text = DARK[kind]
    (tmp_path / "s.yaml").write_text(f"name: s\nwidths: {text}\n")
    refused(cli("plan", pico, "--slice", "s.yaml", timeout=60), r"s\.yaml")
    (tmp_path / "r.yaml").write_text(f"parent: tiny\ntasks: [tiny_boolq]\nlimit: {text}\n")
    refused(cli("sweep", "r.yaml", timeout=60), r"r\.yaml")


@pytest.mark.parametrize("key", ["parent", "datasets", "slices"])
def test_a_nul_in_a_recipe(key: str, tmp_path: Path, cli: Cli) -> None:
    value = '["a\\0b.yaml"]' if key == "slices" else '"a\\0b"'
    (tmp_path / "r.yaml").write_text(f"tasks: [tiny_boolq]\n{key}: {value}\n")
    refused(cli("sweep", "r.yaml"), "NUL")


def test_a_nul_in_what_python_callers_pass(tmp_path: Path) -> None:
    import matformer_lab as ml

    recipe = {"parent": "tiny", "slices": ["1/2"], "tasks": ["tiny_boolq"], "limit": 1}
    parent, nul = ml.open_parent("tiny"), "a\0b"
    plan = ml.make_plan(parent, ml.resolve_slice("1/2", parent))
    calls: list[Callable[[], object]] = [
        lambda: ml.open_parent(nul),
        lambda: ml.resolve_slice(f"{nul}.yaml", parent),
        lambda: ml.load_recipe(nul),
        lambda: ml.write_checkpoint(plan, nul),
        lambda: ml.write_slices("tiny", ["1/2"], nul),
        lambda: ml.verify_checkpoint(nul),
        lambda: ml.run_sweep(ml.parse_recipe(recipe), nul),
        lambda: ml.dry_run(ml.parse_recipe({**recipe, "datasets": nul}), tmp_path),
        lambda: ml.read_sweep(nul),
        lambda: ml.run_gate(tmp_path, tmp_path / "b", update=True, markdown=nul),
    ]
    for call in calls:
        with pytest.raises(ml.InputError):
            call()

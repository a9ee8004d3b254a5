"""The command line as its users meet it: a process, exit codes, one line for every error."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import CommandResult, interrupted
from tests.support.pico import write_parent

Cli = Callable[..., CommandResult]


def assert_refused(done: CommandResult, words: str, folder: Path, *, leaves: set[str]) -> None:
    """Exit 2, one clear line on stderr, nothing on stdout, nothing written."""
    assert done.code == 2, (done.out, done.err)
    assert done.out == ""
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert words in done.err, done.err
    assert "Traceback" not in done.err
    assert {path.name for path in folder.iterdir()} == leaves


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{name: s, widths: {0-3: 1/2, 4: 0, 5-34: full}}", "layer 4: width is 0"),
        ("{name: s, widths: {0-3: 1/2, 4: 65, 5-34: full}}", "layer 4: width 65 is over"),
        ("{name: s, widths: {0-3: 1/2, 4: 1/3, 5-34: full}}", "layer 4: width 1/3"),
        ("{name: s, widths: {0-3: 1/2, 4: 8.5, 5-34: full}}", "8.5 is not an integer"),
        ("{name: s, widths: [32, 32, 32]}", "3 widths for 35 kept layers"),
        ("{name: s, widths: full, skip: [35]}", "skipped layer 35"),
        ("{name: s, widths: full, skip: [21, 21]}", "skipped layer 21 is listed twice"),
        ("{name: s, widths: full, skip: [18]}", "layer 18 feeds the shared K/V"),
        ("{name: s, widths: full, skip: [19]}", "layer 19 feeds the shared K/V"),
        ("{name: s, widths: full, skip: [4, 9, 14, 19, 24, 29, 34]}", "no full_attention layer"),
        ("{name: s, width: full}", "unknown key 'width'; did you mean 'widths'?"),
        ("{name: s, widths: !!python/object/apply:os.getcwd []}", "not valid YAML"),
        ("just words", "a slice must be a mapping"),
    ],
)
def test_every_bad_slice_file_is_refused(
    miniature: Path, tmp_path: Path, cli: Cli, written: str, words: str
) -> None:
    (tmp_path / "s.yaml").write_text(written)
    done = cli("slice", miniature, "--slice", "s.yaml", "--out", "child")
    assert_refused(done, words, tmp_path, leaves={"s.yaml"})


def test_a_csv_with_code_is_refused_and_runs_nothing(
    miniature: Path, tmp_path: Path, cli: Cli
) -> None:
    code = "__import__('pathlib').Path('ran').touch()"
    (tmp_path / "s.csv").write_text(f'name,FFN Hidden Dims,Layers Skipped\nrow,"[{code}]",\n')
    done = cli("slice", miniature, "--slice", "s.csv#row", "--out", "child")
    assert_refused(done, "line 2: FFN Hidden Dims: item 0", tmp_path, leaves={"s.csv"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "{p}", "--slice", "e2c"], "no slice named 'e2c'; did you mean 'e2b'?"),
        (["plan", "{p}", "--slice", ""], "no slice named ''"),
        (["plan", "nowhere/at/all", "--slice", "e2b"], "nowhere/at/all: no such folder"),
        (["plan", "org/name", "--slice", "e2b"], "org/name"),
        (["slice", "{p}", "--out", "c"], "Missing option '--slice'"),
        (["slice", "{p}", "--slice", "e2b", "--out", "c", "--adapter-of", "{p}"], "not an adapter"),
        (
            ["slice", "{p}", "--slice", "e2b", "--out", "c", "--kv-from", "nowhere/at/all"],
            "nowhere",
        ),
        (["verify", "{p}", "--kv-from", "{p}"], "--kv-from needs --parent"),
        (["plan", "{p}", "--slice", "e2b", "--jason"], "No such option"),
        (["plan", "{p}", "--slice", "missing.yaml"], "missing.yaml: no such file"),
        (["plan", "{p}", "--slice", "e2b", "--context", "0"], "--context"),
        (["plam"], "No such command 'plam'"),
        (["slice", "{p}", "--slice", "e2b", "--out", "{p}"], "is the parent itself"),
        (["slice", "{p}", "--slice", "e2b", "--out", "{p}/child"], "lies inside the parent"),
        (["slice", "{p}", "--slice", "e2b", "--out", "full"], "full: already exists"),
        (["slice", "{p}", "--slice", "e2b", "--out", "full/file"], "full/file: is a file"),
        (
            ["slice", "{p}", "--slice", "e2b", "--out", "c", "--max-shard-size", "5 apples"],
            "write a size like 5GB",
        ),
        (["verify", "{p}", "--slice", "e2b"], "--slice needs --parent"),
        (["verify", "{p}"], "has no matformer_lab.json"),
        (["verify", "nothing", "--parent", "{p}"], "nothing: no such folder"),
        (["verify", "nothing"], "nothing: no such folder"),
        (["verify", "{p}", "--against", "nothing"], "nothing: no such folder"),
        (["slice", "{p}", "--slice", "e2b", "--out", "y" * 250], "cannot be written"),
        (["slice", "{p}", "--slice", "e2b", "--out", "c", "--base-model", "no id"], "--base-model"),
        (["sweep", "missing.yaml"], "missing.yaml"),
        (["report", "full"], "full"),
        (["gate", "full", "--baseline", "b.yaml"], "full"),
    ],
)
def test_every_bad_argument_is_refused(
    miniature: Path, tmp_path: Path, cli: Cli, arguments: list[str], words: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    before = sorted(path.name for path in miniature.iterdir())
    done = cli(*(argument.replace("{p}", str(miniature)) for argument in arguments))
    assert_refused(done, words, tmp_path, leaves={"full"})
    assert (tmp_path / "full" / "file").read_text() == "kept"
    assert sorted(path.name for path in miniature.iterdir()) == before


def _edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: (p / "config.json").unlink(), "no config.json"),
        (lambda p: (p / "config.json").write_text("{"), "config.json: not valid JSON"),
        (lambda p: (p / "config.json").write_text('{"a": 1, "a": 2}'), "'a' appears twice"),
        (lambda p: _edit_config(p, model_type="llama"), "model_type is 'llama'"),
        (lambda p: _edit_config(p, hidden_size="32"), "hidden_size"),
        (lambda p: _edit_config(p, num_hidden_layers=11), "has 10 values for 11 layers"),
        (lambda p: _edit_config(p, num_kv_shared_layers=10), "num_kv_shared_layers"),
        (lambda p: _edit_config(p, hidden_size=64), "config.json calls for"),
        (lambda p: (p / "model.safetensors").unlink(), "no safetensors weights"),
    ],
)
def test_every_broken_parent_is_refused(
    tmp_path: Path, cli: Cli, damage: Callable[[Path], object], words: str
) -> None:
    parent = write_parent(tmp_path / "p")
    damage(parent)
    done = cli("slice", parent, "--slice", "1/2", "--out", "child")
    assert_refused(done, words, tmp_path, leaves={"p"})


def test_plan_json_holds_what_the_contract_names(miniature: Path, cli: Cli) -> None:
    done = cli("plan", miniature, "--slice", "e2b", "--json")
    assert done.code == 0
    planned = json.loads(done.out)
    assert {"slice", "parent", "num_hidden_layers", "params", "bytes", "runtimes"} <= set(planned)
    assert set(planned["params"]) == {"total", "text", "effective"}
    assert (planned["slice"], planned["num_hidden_layers"]) == ("e2b", 30)
    assert len(planned["layers"]) == 30


def test_slices_lists_the_sixteen(cli: Cli) -> None:
    listed = json.loads(cli("slices", "--json").out)
    assert len(listed) == 16
    assert listed[1]["name"] == "e2b"
    assert listed[1]["params"]["effective"] == 1_905_495_648
    assert listed[1]["published"]["mmlu"] == 50.9
    assert "1,905,495,648" in cli("slices").out


def test_plan_on_headers_alone(shared: Path, tmp_path: Path, cli: Cli) -> None:
    """A folder with E4B's config and shards of its full inventory, the weights as holes."""
    from matformer_lab.parent.weights.headers import encode_header

    reference = shared / "reference"
    shapes = json.loads((reference / "gemma-3n-E4B.tensors.json").read_text())
    names = sorted(shapes)
    folder = tmp_path / "e4b"
    folder.mkdir()
    config = (reference / "gemma-3n-E4B.config.json").read_bytes()
    (folder / "config.json").write_bytes(config)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:600], names[600:1200], names[1200:]), 1):
        file = f"model-{number:05d}-of-00003.safetensors"
        entries = [(name, "BF16", tuple(shapes[name])) for name in part]
        header = encode_header(entries)
        size = sum(2 * math.prod(shape) for _, _, shape in entries)
        with (folder / file).open("wb") as shard:
            shard.write(header)
            shard.truncate(len(header) + size)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    planned = json.loads(cli("plan", folder, "--slice", "e2b", "--json").out)
    assert planned["params"]["effective"] == 1_905_495_648
    assert planned["params"]["text"] == 4_456_156_768
    whole = json.loads(cli("plan", folder, "--slice", "e4b", "--json").out)
    assert whole["params"]["effective"] == 3_980_491_248


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom matformer_lab.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pandas', 'lm_eval.evaluator', 'matplotlib', 'numpy'}\n"
        "sys.exit(sorted(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_interrupted_is_130_and_the_same_command_finishes(tmp_path: Path, cli: Cli) -> None:
    parent = write_parent(tmp_path / "p")
    arguments = ["slice", parent, "--slice", "1/2", "--out", "child", "--max-shard-size", "1KB"]
    # The order, then for every shard its digests and the shard: each tensor is a shard here.
    err = interrupted(*arguments, before_rename=8, cwd=tmp_path)
    assert err.strip() == "interrupted; run the same command again to continue"
    assert list(tmp_path.glob(".child.partial/files/model-*"))
    assert not (tmp_path / "child").exists()
    assert cli(*arguments).code == 0
    assert cli("verify", "child", "--parent", parent).code == 0

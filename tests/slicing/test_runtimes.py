"""Verdicts rest on what is in a checkpoint, and the table of them is sound."""

import ast
import json
import re
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from matformer_lab.gemma3n import LEAVE_ALONE
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.conditions import Condition
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.runtimes import RuntimeVerdict, findings, runtime_verdicts
from tests.support.command import CommandResult
from tests.support.saved import TORCHAO, quantised_by_torchao, saved_by_transformers_5

Cli = Callable[..., CommandResult]


def test_the_table_ends_in_what_always_holds_and_says_how_and_when() -> None:
    last: dict[tuple[str, str], Condition] = {}
    for one in findings():
        assert last.get((one.runtime, one.versions)) is not Condition.ALWAYS, "never reached"
        last[one.runtime, one.versions] = one.condition
        assert one.verdict in ("ok", "refuses", "silently wrong", "untested")
        assert one.how and date.fromisoformat(one.when)
        assert one.verdict == "ok" or one.why
        assert not set(re.findall(r"\{(\w*)\}", one.why)) - {
            *("missing_kv", "missing_rope", "quantised")
        }
    assert set(last.values()) == {Condition.ALWAYS}
    assert {name for name, _ in last} >= {"transformers", "mlx-lm", "mistral.rs", "llama.cpp"}
    assert {name for name, _ in last} >= {"vLLM", "Ollama", "LiteRT"}


def verdicts(folder: Path) -> dict[str, RuntimeVerdict]:
    """Of a folder as it lies there; transformers' two rows by the first digit of their versions."""
    return {
        one.runtime + (one.version[0] if one.runtime == "transformers" else ""): one
        for one in runtime_verdicts(open_parent(folder))
    }


@pytest.fixture
def folder(miniature: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(miniature, tmp_path / "folder"))


def edit_config(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"] | keys
    config["text_config"] = {key: value for key, value in text.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def test_a_whole_checkpoint(folder: Path) -> None:
    found = verdicts(folder)
    for runtime in ("transformers5", "transformers4", "mlx-lm", "mistral.rs"):
        assert (found[runtime].verdict, found[runtime].condition) == ("ok", "always"), runtime
    assert "without" in found["mlx-lm"].why and "without" in found["transformers4"].why


def test_as_transformers_5_saves_it(miniature: Path, tmp_path: Path) -> None:
    found = verdicts(saved_by_transformers_5(miniature, tmp_path / "saved"))
    assert found["transformers5"].verdict == found["transformers4"].verdict == "ok"
    for runtime in ("mlx-lm", "llama.cpp"):
        assert (found[runtime].verdict, found[runtime].condition) == ("refuses", "no_kv")
        assert "45 tensors" in found[runtime].why
        assert "without --as-is" in found[runtime].remedy
    assert found["mistral.rs"].condition == "no_tokenizer"


def test_rope_and_layer_types(folder: Path) -> None:
    edit_config(folder, rope_theta=None)
    found = verdicts(folder)
    assert (found["mlx-lm"].condition, found["mistral.rs"].condition) == ("no_rope", "no_rope")
    assert found["mlx-lm"].why == "config.json has no rope_theta"
    assert found["transformers4"].verdict == "ok"  # its default is the same number
    rope = {"rope_theta": 5e5, "rope_type": "default"}
    edit_config(folder, rope_parameters={"full_attention": rope, "sliding_attention": rope})
    assert verdicts(folder)["transformers4"].condition == "rope_not_default"
    edit_config(folder, rope_theta=5e5, layer_types=None)
    found = verdicts(folder)
    assert found["mlx-lm"].condition == found["mistral.rs"].condition == "no_layer_types"


def test_head_towers_names_and_tokenizer(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"extra_special_tokens": ["<image>"]}')
    assert verdicts(folder)["transformers4"].condition == "special_tokens_list"
    (folder / "tokenizer_config.json").write_text('{"extra_special_tokens": {"image": "<image>"}}')
    assert verdicts(folder)["transformers4"].condition == "always"
    (folder / "tokenizer.json").unlink()
    assert verdicts(folder)["mistral.rs"].condition == "no_tokenizer"
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert verdicts(folder)["mlx-lm"].condition == "repeated_head"
    tensors["lm_head.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    assert verdicts(folder)["mlx-lm"].condition == "own_head"
    del tensors["lm_head.weight"]
    bare = {name: tensor for name, tensor in tensors.items() if "tower" not in name}
    save_file(bare, folder / "model.safetensors")
    assert verdicts(folder)["transformers5"].condition == "no_towers"
    other = {
        name.replace("model.language_model", "language_model.model"): t for name, t in bare.items()
    }
    save_file(other, folder / "model.safetensors")
    with pytest.warns(UserWarning, match="not the published ones"):
        assert verdicts(folder)["transformers5"].verdict == "silently wrong"


def test_of_a_plan_what_slice_would_write(miniature: Path, tmp_path: Path) -> None:
    parent = open_parent(saved_by_transformers_5(miniature, tmp_path / "saved"))
    for name, condition in (("e2b", "always"), ("e2.98b-layer", "mixed_widths")):
        plan = make_plan(parent, resolve_slice(name, parent))
        found = {one.runtime: one for one in runtime_verdicts(plan)}
        assert found["mlx-lm"].verdict == "ok"
        assert found["Ollama"].condition == (condition if condition != "always" else "width_list")


def test_plan_of_a_folder(miniature: Path, tmp_path: Path, cli: Cli) -> None:
    saved = saved_by_transformers_5(miniature, tmp_path / "saved")
    found = json.loads(cli("plan", saved, "--json").out)
    by_runtime = {one["runtime"]: one for one in found["runtimes"]}
    assert by_runtime["mlx-lm"]["verdict"] == "refuses"
    assert set(by_runtime["mlx-lm"]) == {
        *("runtime", "version", "verdict", "why", "remedy", "condition", "how", "when")
    }
    assert found["filled"] == {"config": [], "kv_layers": [], "kv_from": None}
    filled = json.loads(cli("plan", saved, "--slice", "full", "--json").out)
    assert filled["filled"]["kv_layers"] == list(range(20, 35))
    assert filled["params"]["text"] > found["params"]["text"]
    shown = cli("plan", saved)
    assert shown.code == 0 and "saved as it is" in shown.out
    refused = cli("plan", saved, "--as-is")
    assert refused.code == 2 and "give --slice too" in refused.err


def quantised(source: Path, out: Path, modules: str) -> Path:
    saved_by_transformers_5(source, out, lambda tensors: quantised_by_torchao(tensors, modules))
    config = json.loads((out / "config.json").read_text()) | {"quantization_config": TORCHAO}
    (out / "config.json").write_text(json.dumps(config))
    return out


def test_plan_of_a_quantised_folder(miniature: Path, tmp_path: Path, cli: Cli) -> None:
    folder = quantised(miniature, tmp_path / "int8", r"mlp\.\w+_proj|self_attn\.\w+_proj")
    shown = cli("plan", folder)
    assert shown.code == 0 and "better left alone" not in shown.out + shown.err
    found = json.loads(cli("plan", folder, "--json").out)
    assert found["quantised"]["how"] == "torchao Int8WeightOnlyConfig"
    assert found["quantised"]["weights"] == 35 * (3 + 2) + 20 * 2
    assert found["intermediate_size"] == [64] * 35
    by_runtime = {one["runtime"] + one["version"][0]: one for one in found["runtimes"]}
    assert by_runtime["transformers5"]["condition"] == "quantised_torchao"
    assert by_runtime["transformers4"]["verdict"] == "untested"
    assert by_runtime["mlx-lm0"]["condition"] == "no_kv", "as of any checkpoint"
    assert not by_runtime["mlx-lm0"]["remedy"], "a quantised checkpoint cannot be sliced"
    refused = cli("plan", folder, "--slice", "full")
    assert refused.code == 2 and "quantise the slice" in refused.err


def test_findings_say_whether_slicing_is_the_remedy() -> None:
    """A quantised checkpoint cannot be sliced; that must not hang on a sentence's wording."""
    for finding in findings():
        assert finding.by_slicing == finding.remedy.startswith("`slice`"), finding.remedy


def test_modules_that_should_not_be_quantised_are_named(
    miniature: Path, tmp_path: Path, cli: Cli
) -> None:
    folder = quantised(miniature, tmp_path / "int8", r"mlp\.\w+_proj|_coefs|laurel\.linear_\w+")
    found = json.loads(cli("plan", folder, "--json").out)
    assert found["quantised"]["should_not_be"] == ["altup", "laurel"]
    assert "altup, laurel" in cli("plan", folder).out


def test_the_docs_list_what_quantisers_leave_alone() -> None:
    page = (Path(__file__).parents[2] / "docs/guides/fine-tuned.md").read_text()
    (written,) = re.findall(r"^skip = (\[.*?^\])", page, re.DOTALL | re.MULTILINE)
    assert tuple(ast.literal_eval(written)) == LEAVE_ALONE

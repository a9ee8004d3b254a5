"""verify says yes to the slice and no, naming the place, to everything else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from matformer_lab.checkpoint.manifest import MANIFEST_FILE
from matformer_lab.checkpoint.verification.verify import (
    compare_checkpoints,
    verify_checkpoint,
)
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan
from tests.support.command import CommandResult

Cli = Callable[..., CommandResult]
FILE = "model.safetensors"


@pytest.fixture(scope="module")
def good(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = open_parent(str(miniature))
    out = tmp_path_factory.mktemp("verify") / "e2b"
    return write_checkpoint(make_plan(parent, resolve_slice("e2b", parent)), out)


@pytest.fixture
def child(good: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(good, tmp_path / "child"))


def change(child: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(child / FILE)
    edit(tensors)
    save_file(tensors, child / FILE, metadata={"format": "pt"})


def test_ok_through_the_command_line(miniature: Path, child: Path, cli: Cli) -> None:
    done = cli("verify", child, "--parent", miniature, "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert (found["ok"], found["tensors"], found["problems"]) == (True, 735, [])
    assert (found["kind"], found["differing"]) == ("exact", [])
    assert cli("verify", child).code == 0
    assert cli("verify", child, "--parent", miniature, "--slice", "e2b").code == 0
    assert cli("verify", child, "--against", child).code == 0


def test_one_changed_element_is_named(miniature: Path, child: Path, cli: Cli) -> None:
    name = "model.language_model.layers.21.mlp.down_proj.weight"

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][3, 5] += 1

    change(child, edit)
    done = cli("verify", child, "--parent", miniature, "--json")
    assert done.code == 1
    result = json.loads(done.out)
    assert result["ok"] is False
    assert result["problems"] == [f"tensor {name}: differs from the parent's, first at [3, 5]"]
    alone = verify_checkpoint(child)
    assert alone.problems == (f"tensor {name}: does not match the manifest's digest",)


def test_a_right_shaped_wrong_slice(miniature: Path, child: Path) -> None:
    """Layers 25-29 skipped in place of 20-24: every shape is the same."""
    parent = open_parent(str(miniature))
    manifest = json.loads((child / MANIFEST_FILE).read_text())
    manifest["slice"]["skipped"] = [25, 26, 27, 28, 29]
    (child / MANIFEST_FILE).write_text(json.dumps(manifest))
    result = verify_checkpoint(child, parent)
    assert not result.ok
    assert any("layers.20." in problem for problem in result.problems)
    assert any("embed_tokens_per_layer" in problem for problem in result.problems)


def test_a_shuffled_ffn_of_the_right_shape(miniature: Path, child: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        name = "model.language_model.layers.2.mlp.gate_proj.weight"
        tensors[name] = tensors[name].flip(0).contiguous()

    change(child, edit)
    assert len(verify_checkpoint(child, open_parent(str(miniature))).problems) == 1


def test_missing_and_extra_tensors(miniature: Path, child: Path) -> None:
    name = "model.language_model.layers.0.mlp.up_proj.weight"

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = torch.zeros(2, 2)
        del tensors[name]

    change(child, edit)
    for result in (verify_checkpoint(child, open_parent(str(miniature))), verify_checkpoint(child)):
        assert f"tensor {name}: missing" in result.problems
        assert "tensor lm_head.weight: not part of the slice" in result.problems


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("num_kv_shared_layers", 15, "text_config.num_kv_shared_layers is 15, expected 10"),
        ("rope_theta", None, "text_config.rope_theta is absent, expected 1000000.0"),
        ("num_hidden_layers", 35, "text_config.num_hidden_layers is 35, expected 30"),
    ],
)
def test_a_config_that_disagrees(
    miniature: Path, child: Path, key: str, value: object, problem: str
) -> None:
    config = json.loads((child / "config.json").read_text())
    if value is None:
        del config["text_config"][key]
    else:
        config["text_config"][key] = value
    (child / "config.json").write_text(json.dumps(config))
    result = verify_checkpoint(child, open_parent(str(miniature)))
    assert result.problems == (f"config.json: {problem}",)


def test_a_sparsity_that_became_an_int(miniature: Path, child: Path) -> None:
    """0 and 0.0 are equal in Python and different to transformers 5."""
    config = json.loads((child / "config.json").read_text())
    config["text_config"]["activation_sparsity_pattern"][12] = 0
    (child / "config.json").write_text(json.dumps(config))
    result = verify_checkpoint(child, open_parent(str(miniature)))
    assert result.problems == (
        "config.json: text_config.activation_sparsity_pattern[12] is 0, expected 0.0",
    )


def test_a_hole_in_the_index(miniature: Path, tmp_path: Path) -> None:
    parent = open_parent(str(miniature))
    plan = make_plan(parent, resolve_slice("e2b", parent))
    child = write_checkpoint(plan, tmp_path / "c", max_shard_size=200_000)
    index = json.loads((child / "model.safetensors.index.json").read_text())
    removed = sorted(index["weight_map"])[5]
    del index["weight_map"][removed]
    (child / "model.safetensors.index.json").write_text(json.dumps(index))
    result = verify_checkpoint(child, parent)
    assert not result.ok and removed in result.problems[0]
    index["weight_map"][removed] = "model-00001-of-00003.safetensors"
    index["metadata"]["total_size"] += 1
    (child / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not verify_checkpoint(child, parent).ok


def test_a_missing_and_a_truncated_shard(miniature: Path, tmp_path: Path, cli: Cli) -> None:
    parent = open_parent(str(miniature))
    plan = make_plan(parent, resolve_slice("e2b", parent))
    child = write_checkpoint(plan, tmp_path / "c", max_shard_size=200_000)
    shard = sorted(child.glob("model-*.safetensors"))[1]
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 1)
    done = cli("verify", child, "--parent", miniature)
    assert done.code == 1 and "truncated" in done.out
    shard.unlink()
    done = cli("verify", child, "--parent", miniature)
    assert done.code == 1 and "is missing" in done.out


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"F32","shape":[32,32]', b'"I32","shape":[32,32]'),
        (b'"shape":[32,4]', b'"shape":[4,32]'),
    ],
)
def test_the_same_bytes_under_another_header_without_a_parent(
    child: Path, old: bytes, new: bytes
) -> None:
    data = (child / FILE).read_bytes()
    assert old in data
    (child / FILE).write_bytes(data.replace(old, new, 1))
    assert any(
        "does not match the manifest's digest" in p for p in verify_checkpoint(child).problems
    )


def test_a_tokenizer_that_changed_and_a_card_that_may(
    miniature: Path, child: Path, cli: Cli
) -> None:
    (child / "README.md").write_text("my own words")
    assert cli("verify", child).code == 0
    (child / "tokenizer.json").write_text("{}")
    for arguments in ([], ["--parent", miniature]):
        done = cli("verify", child, *arguments)
        assert done.code == 1 and "tokenizer.json: does not match" in done.out


def test_a_stray_weight_file(miniature: Path, child: Path) -> None:
    save_file({"x": torch.zeros(1)}, child / "more.safetensors")
    problems = verify_checkpoint(child, open_parent(str(miniature))).problems
    assert problems == ("more.safetensors: is in the folder but not in the index",)


def test_a_slice_without_a_manifest(miniature: Path, child: Path, cli: Cli) -> None:
    """Which layers it skips is read off its weights."""
    (child / MANIFEST_FILE).unlink()
    assert cli("verify", child, "--parent", miniature).code == 0
    assert cli("verify", child, "--parent", miniature, "--slice", "e2b").code == 0
    done = cli("verify", child, "--parent", miniature, "--slice", "e1.96b-layer")
    assert done.code == 1 and "intermediate_size[4] is 32, expected 64" in done.out


def test_another_parent(tmp_path: Path, child: Path) -> None:
    from tests.support.pico import E4B_IN_MINIATURE, write_parent

    other = write_parent(
        tmp_path / "other", config=E4B_IN_MINIATURE, dtype="float32", multimodal=True, seed=1
    )
    assert not verify_checkpoint(child, open_parent(str(other))).ok


def test_two_checkpoints_against_each_other(miniature: Path, child: Path, tmp_path: Path) -> None:
    parent = open_parent(str(miniature))
    plan = make_plan(parent, resolve_slice("e2b", parent))
    sharded = write_checkpoint(plan, tmp_path / "sharded", max_shard_size=100_000)
    assert compare_checkpoints(child, sharded).ok
    change(child, lambda tensors: tensors["model.language_model.norm.weight"].neg_())
    assert len(compare_checkpoints(child, sharded).problems) == 1

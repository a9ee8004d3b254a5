"""What transformers 5 leaves out is filled in: K/V that nothing reads, and the two rope numbers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from matformer_lab.checkpoint.family import add_to_family, write_family
from matformer_lab.checkpoint.manifest import MANIFEST_FILE, read_manifest
from matformer_lab.checkpoint.slices import write_slices
from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of
from tests.support.command import CommandResult
from tests.support.saved import saved_by_transformers_5

Cli = Callable[..., CommandResult]
PREFIX = "model.language_model.layers."
KV = ("k_proj", "v_proj", "k_norm")


@pytest.fixture(scope="module")
def tuned(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E4B in miniature, as a fine-tune that transformers 5 saved."""
    return saved_by_transformers_5(miniature, tmp_path_factory.mktemp("tuned") / "tuned")


@pytest.fixture(scope="module")
def opened(tuned: Path) -> Parent:
    return open_parent(tuned)


def kv(tensors: dict[str, torch.Tensor], layer: int) -> list[torch.Tensor]:
    return [tensors[f"{PREFIX}{layer}.self_attn.{part}.weight"] for part in KV]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_copies_of_the_shared_kv(miniature: Path, opened: Parent, tmp_path: Path) -> None:
    """Layers 25-34 become 20-29; 29 and 24 (full) share with layer 19, the others with 18."""
    plan = make_plan(opened, resolve_slice("e2b", opened))
    out = write_checkpoint(plan, tmp_path / "e2b")
    tensors = load_file(out / "model.safetensors")
    for layer in range(20, 30):
        assert same(kv(tensors, layer), kv(tensors, 19 if layer in (24, 29) else 18)), layer
    text = json.loads((out / "config.json").read_text())["text_config"]
    assert (text["rope_theta"], text["rope_local_base_freq"]) == (1_000_000.0, 10_000.0)
    assert verify_checkpoint(out, opened).ok and verify_checkpoint(out).ok
    whole = open_parent(miniature)
    assert sizes_of(plan) == sizes_of(make_plan(whole, resolve_slice("e2b", whole)))
    manifest = read_manifest(out)
    assert manifest and manifest.filled
    assert manifest.filled.kv_layers == tuple(range(20, 30))
    assert manifest.filled.config == ("rope_theta", "rope_local_base_freq")
    assert "was filled in" in (out / "README.md").read_text()


def test_from_the_checkpoint_that_was_tuned(
    miniature: Path, tuned: Path, tmp_path: Path, cli: Cli
) -> None:
    """`slice TUNED --slice full --kv-from BASE` is the base again, tensor for tensor."""
    arguments = ["slice", tuned, "--slice", "full", "--out", tmp_path / "full"]
    done = cli(*arguments, "--kv-from", miniature)
    assert done.code == 0
    assert "filled in rope_theta and rope_local_base_freq (from rope_parameters)" in done.err
    assert "K/V of layers 20-34 (from " in done.err and "--as-is leaves it out" in done.err
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "full", miniature))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    verify = ["verify", tmp_path / "full", "--parent", tuned]
    assert cli(*verify).code == cli(*verify, "--kv-from", miniature).code == 0
    name = f"{PREFIX}30.self_attn.k_proj.weight"
    ours[name][1, 2] += 1
    save_file(ours, tmp_path / "full" / "model.safetensors", metadata={"format": "pt"})
    assert f"tensor {name}: does not match the manifest's digest" in cli(*verify).out
    assert f"tensor {name}: differs" in cli(*verify, "--kv-from", miniature).out


def test_as_is(opened: Parent, tuned: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("slice", tuned, "--slice", "e2b", "--out", tmp_path / "e2b", "--as-is")
    assert (done.code, done.err) == (0, "")
    assert "rope_theta" not in json.loads((tmp_path / "e2b/config.json").read_text())["text_config"]
    assert f"{PREFIX}25.self_attn.k_proj.weight" not in load_file(
        tmp_path / "e2b" / "model.safetensors"
    )
    assert verify_checkpoint(tmp_path / "e2b", opened).ok
    (tmp_path / "e2b" / MANIFEST_FILE).unlink()
    assert verify_checkpoint(tmp_path / "e2b", opened, "e2b").ok
    assert "--as-is" in (tmp_path / "e2b" / "README.md").read_text()


def test_a_filled_slice_without_its_manifest(opened: Parent, tmp_path: Path) -> None:
    out = write_slices(opened, "e2b", tmp_path / "e2b").folder
    (out / MANIFEST_FILE).unlink()
    assert verify_checkpoint(out, opened).ok  # which layers were skipped, its weights say


def test_layer_types_are_left_out_only_where_they_are_the_default(
    miniature: Path, tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(miniature, tmp_path / "bare"))
    config = json.loads((bare / "config.json").read_text())
    del config["text_config"]["layer_types"]
    (bare / "config.json").write_text(json.dumps(config))
    parent = open_parent(bare)
    for name, as_is, there in (
        *(("full", False, True), ("full", True, False)),
        *(("e2b", True, False), ("e2b", False, True)),
    ):
        plan = make_plan(parent, resolve_slice(name, parent), as_is=as_is)
        assert ("layer_types" in plan.config["text_config"]) is there
        assert plan.filling.config == (() if as_is else ("layer_types",))
        out = write_checkpoint(plan, tmp_path / f"{name}-{as_is}")
        assert verify_checkpoint(out, parent).ok


def test_scaled_rope_is_not_taken_for_two_numbers(tuned: Path, tmp_path: Path) -> None:
    scaled = Path(shutil.copytree(tuned, tmp_path / "scaled"))
    config = json.loads((scaled / "config.json").read_text())
    rope = config["text_config"]["rope_parameters"]["full_attention"]
    rope |= {"rope_type": "yarn", "factor": 4.0}
    (scaled / "config.json").write_text(json.dumps(config))
    parent = open_parent(scaled)
    assert make_plan(parent, resolve_slice("full", parent)).filling.config == (
        "rope_local_base_freq",
    )


def test_what_kv_cannot_be_from(opened: Parent, pico_full: Path, miniature: Path) -> None:
    full = resolve_slice("full", opened)
    with pytest.raises(InputError, match="its num_hidden_layers is not that of"):
        make_plan(opened, full, kv_from=open_parent(pico_full))
    with pytest.raises(InputError, match="weight either"):
        make_plan(opened, full, kv_from=opened)
    with pytest.raises(InputError, match="`as_is` fills in nothing"):
        make_plan(opened, full, as_is=True, kv_from=open_parent(miniature))


def test_a_family_of_filled_slices_shares_its_files(opened: Parent, tmp_path: Path) -> None:
    plans = [make_plan(opened, resolve_slice(n, opened)) for n in ("e2b", "1/2", "1/4")]
    family = write_family(plans[:2], tmp_path / "family")
    add_to_family(plans[2:], family)
    assert verify_checkpoint(family, opened).ok
    inodes: dict[int, int] = {}
    for path in (family / "uniform-1-4").glob("*.safetensors"):
        inodes[path.stat().st_ino] = path.stat().st_nlink
    assert sum(links > 1 for links in inodes.values()) >= 35  # all but the FFNs
    with pytest.raises(InputError, match="holds something else"):
        add_to_family([make_plan(opened, plans[0].slice, as_is=True)], family)

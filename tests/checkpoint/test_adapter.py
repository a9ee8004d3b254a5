"""A LoRA cut to a slice gives the slice of the merged model: by arithmetic, and with PEFT."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from matformer_lab.checkpoint.adapter import slice_adapter
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.slice import Slice
from tests.support.command import CommandResult

Cli = Callable[..., CommandResult]
AROUND = "base_model.model."
MODULES = (
    *("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    *("per_layer_input_gate", "per_layer_projection", "laurel.linear_left"),
)
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": None,
    "r": 3,
    "lora_alpha": 6,
    "target_modules": [*(name.rpartition(".")[2] for name in MODULES), "embed_tokens_per_layer"],
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
}
MIXED = {"name": "mixed", "widths": [64, 32, 16, 48, 64, 8, 32, 16], "skip": [2, 6]}
"""Of 10 layers of 64 units each."""


def write_lora(folder: Path, parent: Path, prefix: str = "model.layers.", **settings: Any) -> Path:
    """A random LoRA of every kind of cut; layer 7's `up_proj` has another rank."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {}

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weights = load_file(parent / "model.safetensors")
    root = prefix.removesuffix("layers.")
    for name, weight in weights.items():
        module = name.removesuffix(".weight")
        inside = module.removeprefix("model.layers.").partition(".")[2]
        new = AROUND + root + module.removeprefix("model.")
        rank = 5 if module == "model.layers.7.mlp.up_proj" else 3
        if inside in MODULES or module == "model.per_layer_model_projection":
            tensors[f"{new}.lora_A.weight"] = random(rank, weight.shape[1])
            tensors[f"{new}.lora_B.weight"] = random(weight.shape[0], rank)
        if module == "model.embed_tokens_per_layer":
            tensors[f"{new}.lora_embedding_A"] = random(3, weight.shape[0])
            tensors[f"{new}.lora_embedding_B"] = random(weight.shape[1], 3)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {**CONFIG, "rank_pattern": {"layers.7.mlp.up_proj": 5}, **settings}
    if config["base_model_name_or_path"] is None:
        config["base_model_name_or_path"] = str(parent)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def merged(weights: Mapping[str, Tensor], adapter: Path) -> dict[str, Tensor]:
    """W + (alpha / r) * B @ A, as PEFT's documentation has it, in double precision."""
    lora = load_file(adapter / "adapter_model.safetensors")
    alpha = json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"]
    result = {name: tensor.double() for name, tensor in weights.items()}
    for name, a in lora.items():
        module = name.removeprefix(AROUND)
        if module.endswith(".lora_A.weight"):
            b = lora[name.replace("lora_A", "lora_B")].double()
            weight = module.replace(".lora_A.weight", ".weight")
            result[weight] += alpha / len(a) * (b @ a.double())
        if module.endswith(".lora_embedding_A"):
            b = lora[name.replace("embedding_A", "embedding_B")].double()
            weight = module.replace(".lora_embedding_A", ".weight")
            result[weight] += alpha / len(a) * (b @ a.double()).T
    return result


def slices_of(parent: Path) -> list[Slice]:
    return list(resolve_slices([MIXED, "1/4"], open_parent(parent)))


def test_it_is_the_slice_of_the_merged_model(pico: Path, tmp_path: Path) -> None:
    adapter = write_lora(tmp_path / "adapter", pico)
    parent = open_parent(pico)
    weights = load_file(pico / "model.safetensors")
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "config.json").write_bytes((pico / "config.json").read_bytes())
    whole = {name: tensor.float() for name, tensor in merged(weights, adapter).items()}
    save_file(whole, tmp_path / "merged" / "model.safetensors", metadata={"format": "pt"})
    for slice_ in slices_of(pico):
        out = tmp_path / slice_.name
        written = slice_adapter(adapter, slice_, out / "adapter")
        base = write_checkpoint(make_plan(parent, slice_), out / "base")
        ours = merged(load_file(base / "model.safetensors"), out / "adapter")
        of_merged = make_plan(open_parent(tmp_path / "merged"), slice_)
        theirs = load_file(write_checkpoint(of_merged, out / "theirs") / "model.safetensors")
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.allclose(ours[name], tensor.double(), rtol=1e-6, atol=1e-6), name
        assert written.tensors == len(load_file(out / "adapter" / "adapter_model.safetensors"))


def test_names_ranks_and_layers_follow(pico: Path, tmp_path: Path) -> None:
    """Layers 0 1 3 4 5 7 8 9 are 0-7 in the slice."""
    adapter = write_lora(
        tmp_path / "adapter",
        pico,
        layers_to_transform=[1, 2, 7],
        alpha_pattern={r"layers.[79]\..*gate_proj": 12, "q_proj": 4},
    )
    slice_ = slices_of(pico)[0]
    slice_adapter(adapter, slice_, tmp_path / "out", base_model="me/mixed")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {"model.layers.5.mlp.up_proj": 5}
    gates = {f"model.layers.{n}.mlp.gate_proj": 12 for n in (5, 7)}
    assert config["alpha_pattern"] == gates | {
        f"model.layers.{n}.self_attn.q_proj": 4 for n in range(8)
    }
    assert config["layers_to_transform"] == [1, 5]
    assert config["target_modules"] == CONFIG["target_modules"]
    assert config["base_model_name_or_path"] == "me/mixed"
    names = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert names["base_model.model.model.layers.5.mlp.up_proj.lora_B.weight"].shape == (8, 5)


@pytest.mark.parametrize(
    "targets", [r".*layers\.(1|2|7)\..*(q_proj|down_proj)", ["layers.1.self_attn.q_proj"]]
)
def test_targets_that_name_layers_are_written_out(
    targets: object, pico: Path, tmp_path: Path
) -> None:
    adapter = write_lora(tmp_path / "adapter", pico, target_modules=targets)
    slice_adapter(adapter, slices_of(pico)[0], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    names = load_file(tmp_path / "out" / "adapter_model.safetensors")
    found = {name.removeprefix(AROUND).partition(".lora_")[0] for name in names}
    assert config["target_modules"] == sorted(found)
    assert config["base_model_name_or_path"] is None


@pytest.mark.slow
def test_the_full_form_and_text_only(pico: Path, pico_full: Path, tmp_path: Path, cli: Cli) -> None:
    adapter = write_lora(
        tmp_path / "a", pico, "model.language_model.layers.", base_model_name_or_path="gone"
    )
    weights = load_file(adapter / "adapter_model.safetensors")
    weights["base_model.model.model.vision_tower.blocks.0.fc.lora_A.weight"] = torch.ones(3, 4)
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    arguments = ["slice", adapter, "--slice", "1/2", "--adapter-of", pico_full]
    done = cli(*arguments, "--out", tmp_path / "full")
    assert done.code == 0 and "adapter for uniform-1-2, " in done.out
    assert cli(*arguments, "--out", tmp_path / "text", "--text-only").code == 0
    full, text = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("full", "text"))
    assert "base_model.model.model.vision_tower.blocks.0.fc.lora_A.weight" in full
    assert {name.replace("language_model.", "") for name in full if "tower" not in name} == set(
        text
    )


def test_what_cannot_be_cut_is_named(pico: Path, tmp_path: Path) -> None:
    def refused(
        match: str, change: Callable[[dict[str, Tensor]], object] = lambda _: None, **more: Any
    ) -> None:
        adapter = write_lora(tmp_path / f"a{len(list(tmp_path.iterdir()))}", pico, **more)
        weights = load_file(adapter / "adapter_model.safetensors")
        change(weights)
        save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match=match):
            slice_adapter(adapter, "1/2", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    down = f"{AROUND}model.layers.1.mlp.down_proj"
    refused("only a LoRA can be cut", peft_type="LOHA")
    refused("has layer_replication", layer_replication=[[0, 5]])
    refused("r is None, expected a number", r=None)
    refused("no such folder", base_model_name_or_path="/nowhere/at/all")
    refused(
        "belongs to no module",
        lambda t: t.update({f"{AROUND}model.layers.1.x.lora_A.weight": torch.ones(1)}),
    )
    refused(
        "how a slice cuts .* is not known", lambda t: t.update({f"{down}.ia3_l": torch.ones(1)})
    )
    refused(
        "DoRA's: it scales whole rows of the tuned weight",
        lambda t: t.update({f"{down}.lora_magnitude_vector": torch.ones(32)}),
    )
    norm = f"{AROUND}model.layers.0.input_layernorm.lora_A.weight"
    refused("is a single number", lambda t: t.update({norm: torch.tensor(1.0)}))
    refused("takes too long to match", alpha_pattern={"(?R)3": 3})
    refused("is not an adapter of", lambda t: t.update({f"{down}.lora_A.weight": torch.ones(3, 7)}))


@pytest.fixture(scope="module")
def peft(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with PEFT: the one that `PEFT` names, or one into which it is installed."""
    given = os.environ.get("PEFT", "")
    if Path(given).is_dir() and given:
        return given
    target = str(tmp_path_factory.mktemp("peft"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target]
    subprocess.run([*pip, "peft==0.21.2"], check=True, timeout=300)
    return target


@pytest.mark.skipif(
    "CI" not in os.environ and "PEFT" not in os.environ,
    reason="installs PEFT beside the environment; set PEFT=1, or to a folder that has it",
)
def test_with_peft_itself(tmp_path: Path, peft: str) -> None:
    """Adapters that PEFT saves and loads, and slices that transformers saved again or tuned."""
    script = Path(__file__).parents[1] / "support" / "peft_equality.py"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, peft])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert max(float(line.split()[1]) for line in done.stdout.splitlines()) < 1e-5

"""Pico Gemma 3n parents, written to disk by transformers itself, and a real CLI."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A slow example says that the machine is busy, not that the code is wrong.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Pico models are too small for a second thread to help, and two threads on a busy machine wait for
# each other. Set before torch is imported; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A script's background job ignores Ctrl-C; so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

PICO = {
    "vocab_size": 96,
    "vocab_size_per_layer_input": 96,
    "hidden_size": 32,
    "hidden_size_per_layer_input": 8,
    "intermediate_size": 64,
    "num_hidden_layers": 10,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "num_kv_shared_layers": 5,
    "laurel_rank": 4,
    "altup_num_inputs": 4,
    "sliding_window": 8,
    "max_position_embeddings": 256,
    "activation_sparsity_pattern": [0.9] * 4 + [0.0] * 6,
}
E4B_IN_MINIATURE = {
    **PICO,
    "num_hidden_layers": 35,
    "num_kv_shared_layers": 15,
    "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 25,
}
"""E4B's layer structure, so that every published slice applies."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))


def write_parent(
    folder: Path,
    *,
    config: dict[str, Any] = PICO,
    dtype: str = "bfloat16",
    multimodal: bool = False,
    shard_size: str = "50GB",
    shared_kv: bool = True,
    seed: int = 0,
    scale: float = 0.2,
) -> Path:
    """A random Gemma 3n checkpoint, saved by transformers and completed as Google publishes it.

    `shared_kv`: add the redundant K/V tensors of sharing layers, which transformers 5 drops but
    published checkpoints carry. `multimodal`: the full naming and config, with small stand-ins for
    tower tensors (slicing copies them whatever they are).
    """
    import torch
    from safetensors.torch import load_file
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    torch.manual_seed(seed)
    text = Gemma3nTextConfig(**config)
    model = Gemma3nForCausalLM(text)
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh models have altup.correct_output_scale = 0, which hides per-layer-input bugs.
            parameter.copy_(torch.randn_like(parameter) * scale)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    if shared_kv:
        kv = text.num_key_value_heads * text.head_dim
        for layer in range(
            text.num_hidden_layers - text.num_kv_shared_layers, text.num_hidden_layers
        ):
            attention = f"model.layers.{layer}.self_attn"
            for part in ("k_proj", "v_proj"):
                random = torch.randn(kv, text.hidden_size)
                tensors[f"{attention}.{part}.weight"] = random.to(getattr(torch, dtype))
            tensors[f"{attention}.k_norm.weight"] = torch.randn(text.head_dim).to(
                getattr(torch, dtype)
            )
    written = json.loads((folder / "config.json").read_text())
    # As Google's files have them; 4.5x and mlx-lm read these, transformers 5 drops them.
    written |= {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}
    if multimodal:
        tensors = {
            name.replace("model.", "model.language_model.", 1): tensor
            for name, tensor in tensors.items()
        }
        for tower in ("model.vision_tower.timm_model.conv", "model.audio_tower.conformer.0.norm"):
            tensors[f"{tower}.weight"] = torch.randn(5, 3, 2).to(getattr(torch, dtype))
        tensors["model.embed_vision.embedding.weight"] = torch.randn(4, 6).to(getattr(torch, dtype))
        tensors["model.vision_tower.timm_model.count"] = torch.tensor([7], dtype=torch.int64)
        torch_dtype = written.pop("dtype", dtype)
        written = {
            "architectures": ["Gemma3nForConditionalGeneration"],
            "audio_config": {"model_type": "gemma3n_audio"},
            "image_token_id": 90,
            "model_type": "gemma3n",
            "text_config": {k: v for k, v in written.items() if k != "architectures"},
            "torch_dtype": torch_dtype,
            "vision_config": {"model_type": "gemma3n_vision"},
        }
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    (folder / "model.safetensors").unlink()
    _save(folder, tensors, shard_size)
    for name in ("tokenizer.json", "preprocessor_config.json", "chat_template.jinja", "LICENSE"):
        (folder / name).write_text(f"stand-in for {name}\n")
    return folder


def _save(folder: Path, tensors: dict[str, Any], shard_size: str) -> None:
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(tensors, folder, max_shard_size=shard_size, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text-only, bf16, 10 layers, K/V shared from layer 5, one file."""
    return write_parent(tmp_path_factory.mktemp("pico"))


@pytest.fixture(scope="session")
def pico_full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full form (text plus towers), sharded."""
    return write_parent(tmp_path_factory.mktemp("pico-full"), multimodal=True, shard_size="60KB")


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full form with E4B's 35 layers, fp32."""
    return write_parent(
        tmp_path_factory.mktemp("miniature"),
        config=E4B_IN_MINIATURE,
        dtype="float32",
        multimodal=True,
    )


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference files and benchmark data that lie beside the repository, where they do."""
    folder = Path(os.environ.get("MATFORMER_LAB_SHARED", "../shared"))
    if not folder.is_absolute():
        folder = Path(__file__).resolve().parent.parent / folder
    if not (folder / "reference").is_dir():
        pytest.skip(f"needs the reference files of {folder.name}/, which are not here")
    return folder


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


def run_offline(
    *arguments: object, cwd: Path, env: Mapping[str, str] | None = None, **kwargs: Any
) -> Finished:
    """`python ARGUMENTS...`, a process of its own, with `env` besides this one's environment."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=kwargs.pop("timeout", 300),
        check=False,
        **kwargs,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., Finished]:
    """Runs `matformer-lab` as a user does: a process of its own, offline, in an empty folder."""

    def run(*arguments: object, **kwargs: Any) -> Finished:
        return run_offline("-m", "matformer_lab", *arguments, **{"cwd": tmp_path, **kwargs})

    return run


@pytest.fixture(scope="session")
def scorable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten random layers with the embedded parent's tokenizer: what tasks can be scored on."""
    import shutil

    from matformer_lab import tiny

    vocabulary = json.loads((tiny.model_dir() / "config.json").read_text())["vocab_size"]
    sizes = {"vocab_size": vocabulary, "vocab_size_per_layer_input": vocabulary}
    folder = write_parent(
        tmp_path_factory.mktemp("scorable"),
        config={**PICO, **sizes, "max_position_embeddings": 4096},
        dtype="float32",
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(tiny.model_dir() / name, folder / name)
    return folder


def stored(out: Path) -> dict[str, int]:
    """Every stored score of a sweep and when it was written, to the nanosecond."""
    from matformer_lab.sweep.sweep import STORE

    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for path in sorted((out / STORE).glob("*/*.parquet"))
    }


def interrupted(
    *arguments: object, before_rename: int, cwd: Path, env: Mapping[str, str] | None = None
) -> str:
    """Ctrl-C for a command when it is about to name its n-th file; what it says on stderr."""
    script = Path(__file__).parent / "support" / "at_rename.py"
    done = run_offline(script, before_rename, *arguments, cwd=cwd, env=env)
    assert done.code == 130, done.err
    return done.err

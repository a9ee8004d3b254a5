"""Children load in every transformers that has Gemma 3n, with the same logits.

Each version is installed in a folder of its own that goes before the environment's (`pip install
--target`), so this needs the package index and about half a minute a version.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.slice import Slice
from tests.support.pico import E4B_IN_MINIATURE, write_parent

pytestmark = pytest.mark.skipif(
    "CI" not in os.environ and "OLD_TRANSFORMERS" not in os.environ,
    reason="downloads old releases of transformers; set OLD_TRANSFORMERS=1 (CI always runs it)",
)

RELEASES = {
    "4.53.3": ["transformers==4.53.3", "huggingface_hub<1", "tokenizers>=0.21,<0.22"],
    "4.57.6": ["transformers==4.57.6", "huggingface_hub<1", "tokenizers>=0.22,<0.23"],
    "newest": [],
}


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The PYTHONPATH of one release; empty for the environment's own."""
    if not RELEASES[request.param]:
        return ""
    target = tmp_path_factory.mktemp(f"transformers-{request.param}")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*install, str(target), *RELEASES[request.param]], check=True, timeout=300)
    return str(target)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E4B's structure with small weights: 35 random layers of usual size amplify the last bit of
    fp32, in which releases may differ, to over 1e-4."""
    folder = tmp_path_factory.mktemp("calm")
    return write_parent(folder, config=E4B_IN_MINIATURE, dtype="float32", scale=0.1)


LONG = [pytest.param(name, marks=pytest.mark.slow) for name in ("e4b", "e2.69b-layer")]


@pytest.mark.parametrize("name", ["e2b", "skips-of-every-kind", *LONG])
def test_logits_are_the_same_everywhere(
    calm: Path, tmp_path: Path, release: str, name: str
) -> None:
    parent = open_parent(str(calm))
    if name.startswith("skips"):
        from matformer_lab.slicing.notation.catalog import resolve_slices

        written = {"name": name, "widths": "1/4", "skip": [0, 7, "10-14", 22, "25-29"]}
        (slice_,) = resolve_slices([written], parent)
    else:
        slice_ = resolve_slice(name, parent)
    child = write_checkpoint(make_plan(parent, slice_, text_only=True), tmp_path / "child")
    check_logits(child, parent, slice_, tmp_path, release)


def test_a_head_of_its_own_is_used_everywhere(calm: Path, tmp_path: Path, release: str) -> None:
    """`tie_word_embeddings: false` is honoured, and the head is not the embeddings."""
    folder = shutil.copytree(calm, tmp_path / "parent")
    tensors = load_file(folder / "model.safetensors")
    embed = tensors["model.embed_tokens.weight"]
    generator = torch.Generator().manual_seed(7)
    tensors["lm_head.weight"] = torch.randn(embed.shape, generator=generator) * 0.1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    parent = open_parent(folder)
    slice_ = resolve_slice("e2b", parent)
    child = write_checkpoint(make_plan(parent, slice_), tmp_path / "child")
    check_logits(child, parent, slice_, tmp_path, release)


def check_logits(child: Path, parent: Parent, slice_: Slice, folder: Path, release: str) -> None:
    """A child's logits in a release are those of the live slice."""
    ids = torch.randint(1, 96, (2, 24), generator=torch.Generator().manual_seed(0))
    np.save(folder / "ids.npy", ids.numpy())
    script = Path(__file__).parents[1] / "support" / "logits.py"
    done = subprocess.run(
        [sys.executable, script, child, folder / "ids.npy", folder / "logits.npy"],
        env={**os.environ, "PYTHONPATH": release, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        expected = ElasticParent.load(parent, dtype=torch.float32).live(slice_)(ids).logits
    assert expected.std() > 0.03  # enough for a wrong slice to be seen
    assert np.abs(np.load(folder / "logits.npy") - expected.numpy()).max() <= 1e-4

"""Children load in every transformers that has Gemma 3n, with the same logits.

Each version is installed in a folder of its own that goes before the environment's (`pip install
--target`), so this needs the package index and about half a minute a version.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from tests.support.pico import E4B_IN_MINIATURE, write_parent
from tests.support.separate_head import with_head

IDS = torch.randint(1, 96, (2, 24), generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.skipif(
    "CI" not in os.environ and "OLD_TRANSFORMERS" not in os.environ,
    reason="downloads old releases of transformers; set OLD_TRANSFORMERS=1 (CI always runs it)",
)

RELEASES = {
    "4.53.3": ["transformers==4.53.3", "huggingface_hub<1", "tokenizers>=0.21,<0.22"],
    "4.57.6": ["transformers==4.57.6", "huggingface_hub<1", "tokenizers>=0.22,<0.23"],
    "newest": [],
}


SKIPS = {"name": "skips", "widths": "1/4", "skip": [0, 7, "10-14", 22, "25-29"]}
"""Of every kind: K/V of its own and shared, single layers and runs, both kinds of attention."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Folders of children, and our own logits for them."""
    folder = tmp_path_factory.mktemp("children")
    # Small weights: 35 random layers of usual size amplify the last bit of fp32, in which releases
    # may differ, to over 1e-4.
    calm = write_parent(folder / "calm", config=E4B_IN_MINIATURE, dtype="float32", scale=0.1)
    head = with_head(calm, folder / "head", {"top": False})
    wanted: dict[Path, list[object]] = {
        calm: ["e4b", "e2b", "e2.69b-layer", SKIPS],
        head: ["e2b"],
    }
    found = {}
    for place, slices in wanted.items():
        parent = open_parent(place)
        elastic = ElasticParent.load(parent, dtype=torch.float32)
        for slice_ in resolve_slices(slices, parent):
            plan = make_plan(parent, slice_, text_only=True)
            child = write_checkpoint(plan, folder / f"{place.name}-{slice_.name}")
            with torch.no_grad():
                logits = elastic.live(slice_)(IDS).logits
            assert logits.std() > 0.03  # enough for a wrong slice to be seen
            found[str(child)] = logits.numpy()
    return found


@pytest.mark.parametrize(
    "release",
    [
        pytest.param("4.53.3", marks=pytest.mark.slow),
        "4.57.6",
        pytest.param("newest", marks=pytest.mark.slow),
    ],
)
def test_logits_are_the_same_everywhere(
    expected: dict[str, np.ndarray], tmp_path: Path, release: str
) -> None:
    site = tmp_path / "site"
    if RELEASES[release]:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*install, str(site), *RELEASES[release]], check=True, timeout=300)
    np.save(tmp_path / "ids.npy", IDS.numpy())
    script = Path(__file__).parents[1] / "support" / "logits.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "ids.npy", tmp_path / "logits.npz", *expected],
        env={**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for child, theirs in np.load(tmp_path / "logits.npz").items():
        difference = np.abs(theirs - expected[child]).max()
        assert difference <= 1e-4, (Path(child).name, difference)

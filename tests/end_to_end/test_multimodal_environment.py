"""Runs test_multimodal.py in an environment that has what pictures need: timm and torchvision.

They are installed in a folder of their own that goes before the environment's (`pip install
--target`): the package index and half a minute are needed.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PICTURES = ["timm==1.0.31", "torchvision==0.28.0", "pillow"]
"""What transformers needs for pictures; torchvision 0.28 is the one for torch 2.13."""


@pytest.mark.skipif(
    "CI" not in os.environ and "MULTIMODAL" not in os.environ,
    reason="downloads timm and torchvision; set MULTIMODAL=1 (CI always runs it)",
)
@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is here: the tests run as they are")
def test_pictures_and_sound_in_an_environment_of_their_own(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, str(tmp_path / "site"), *PICTURES], check=True, timeout=300)
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    command = "-m pytest -rs -p no:cacheprovider -p tests.support.torchvision_operators"
    done = subprocess.run(
        [sys.executable, *command.split(), "tests/end_to_end/test_multimodal.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout, done.stdout[-2000:]

"""What users install: the built wheel alone, away from the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as pip installs it; its dependencies are the environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, str(folder), str(ROOT)], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, timeout=300)
    return site


def run(site: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "matformer_lab", *arguments],
        cwd=site.parent,
        env={**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_slices_parent_and_recipes_ship_inside(installed: Path, tmp_path: Path) -> None:
    assert len(json.loads(run(installed, "slices", "--json"))) == 16
    planned = json.loads(run(installed, "plan", "tiny", "--slice", "e2b", "--json"))
    assert planned["num_hidden_layers"] == 30
    out = str(tmp_path / "e2b")
    run(installed, "slice", "tiny", "--slice", "e2b", "--out", out)
    assert "ok" in run(installed, "verify", out, "--parent", "tiny")
    assert "scores to compute" in run(installed, "sweep", "demo", "--dry-run")


def test_the_package_is_small(installed: Path) -> None:
    """The embedded parent with tokenizer and tasks stays under 8 MB, the whole under 12."""
    package = installed / "matformer_lab"
    sizes = {path: path.stat().st_size for path in package.rglob("*") if path.is_file()}
    assert sum(size for path, size in sizes.items() if "tiny" in path.parts) <= 8_000_000
    assert sum(sizes.values()) <= 12_000_000

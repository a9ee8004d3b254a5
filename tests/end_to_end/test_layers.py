"""The layers of `.importlinter` hold, and a module outside or an import upwards is caught."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    return subprocess.run(
        [*command, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_module_stands_in_its_layer() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("stray.py", "", "matformer_lab.stray"),
        ("slicing/sizes.py", "import matformer_lab.cli.output", "slicing is not allowed to import"),
        ("gate/run.py", "import matformer_lab.report.page", "gate is not allowed to import"),
        ("results/read.py", "import torch", "results is not allowed to import torch"),
        ("sweep/run.py", "import lm_eval", "matformer_lab.sweep.run -> lm_eval"),
        ("sweep/run.py", "import ray", "matformer_lab.sweep.run -> ray"),
        ("gate/run.py", "import matplotlib", "matformer_lab.gate.run -> matplotlib"),
        ("live/elastic.py", "import huggingface_hub", "matformer_lab.live.elastic -> huggingface"),
    ],
)
def test_a_violation_is_caught(tmp_path: Path, file: str, line: str, said: str) -> None:
    ignored = shutil.ignore_patterns("tiny", "assets", "__pycache__")
    shutil.copytree(ROOT / "matformer_lab", tmp_path / "matformer_lab", ignore=ignored)
    (tmp_path / "matformer_lab" / "tiny").mkdir()
    shutil.copy(ROOT / "matformer_lab" / "tiny" / "__init__.py", tmp_path / "matformer_lab/tiny/")
    shutil.copy(ROOT / ".importlinter", tmp_path)
    with (tmp_path / "matformer_lab" / file).open("a") as module:
        module.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode != 0
    assert said in done.stdout, done.stdout

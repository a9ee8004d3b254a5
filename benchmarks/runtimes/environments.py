"""Where each runtime is installed, and which script runs it there."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RUNNERS: Final = Path(__file__).parent / "runners"


@dataclass(frozen=True)
class Environment:
    """A runtime in an environment of its own.

    Attributes:
        runtime: Its name in the table.
        key: Names its folder.
        packages: What pip installs. `beside`: into a folder that goes before this environment's
            packages (for what shares torch with it), without dependencies; else into a venv.
        runner: The script in `runners/`.
        beside: See `packages`.
        tolerance: How far its log-probabilities may be off and still be right.
    """

    runtime: str
    key: str
    packages: tuple[str, ...]
    runner: str
    beside: bool = False
    tolerance: float = 1e-2

    def python(self, work: Path) -> Path:
        """The interpreter."""
        return Path(sys.executable) if self.beside else work / self.key / "bin" / "python"

    def variables(self, work: Path) -> dict[str, str]:
        """The process's environment."""
        path = [str(work / self.key)] if self.beside else []
        if self.beside:
            path += filter(None, [os.environ.get("PYTHONPATH")])
        offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(path)}
        return {**os.environ, **offline}

    def install(self, work: Path) -> str | None:
        """Install it; why that failed, or None."""
        target = work / self.key
        pip = [sys.executable, "-m", "pip", "install", "-q"]
        if self.beside:
            commands = [[*pip, "--no-deps", "--target", str(target), *self.packages]]
        else:
            pip[0] = str(target / "bin" / "python")
            commands = [[sys.executable, "-m", "venv", str(target)], [*pip, *self.packages]]
        for command in commands if self.packages else []:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return (done.stderr.strip().splitlines() or ["failed"])[-1]
        return None

    def is_installed(self, work: Path) -> bool:
        """Whether its folder is there."""
        return not self.packages or (work / self.key).exists()


ENVIRONMENTS: Final = (
    Environment("transformers", "here", (), "run_transformers.py", beside=True),
    Environment(
        "transformers",
        "tf457",
        ("transformers==4.57.6", "huggingface_hub<1", "tokenizers>=0.22,<0.23"),
        "run_transformers.py",
        beside=True,
    ),
    Environment("mlx-lm", "mlx", ("mlx[cpu]", "mlx-lm"), "run_mlx.py"),
    Environment(
        "llama.cpp",
        "xllama",
        ("xllamacpp",),
        "run_llama.py",
        beside=True,
        tolerance=0.1,
    ),
    Environment("mistral.rs", "mistralrs", ("mistralrs", "numpy"), "run_mistralrs.py"),
)

"""Run every runtime on every case and compare: `python -m benchmarks.runtimes.run --work DIR`."""

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import matformer_lab as ml
from benchmarks.runtimes.cases import CASES, TOKENS, Case, write_cases
from benchmarks.runtimes.environments import ENVIRONMENTS, RUNNERS, Environment

_TIMEOUT: Final = 600
"""Seconds for one run, most of which are imports."""

Logits = npt.NDArray[np.float32]


def main() -> None:
    """Write `results.json`."""
    arguments = _arguments()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    (work / "tokens.json").write_text(json.dumps(TOKENS))
    folders = write_cases(work)
    here = ENVIRONMENTS[0]
    reference = {case.name: _reference(here, folders[case.name], work) for case in CASES}
    source: Path | None = arguments.llama_cpp
    results = []
    for environment in ENVIRONMENTS:
        if arguments.only and environment.key not in arguments.only:
            continue
        if arguments.install and (why := environment.install(work)):
            print(f"{environment.runtime}: not installed: {why}", flush=True)
        if not environment.is_installed(work):
            continue
        for case in CASES:
            for options in _variants(environment):
                folder = folders[case.name]
                error = _convert(folder, source) if environment.key == "llama" else None
                found = {"version": None, "logits": None, "error": error}
                if error is None:
                    found = _run(environment, folder, work, options)
                row = _row(environment, case, options, found, reference[case.name], folders)
                results.append(row)
                print(json.dumps(row), flush=True)
    arguments.out.write_text(json.dumps({"results": results}, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for environments and slices"
    )
    parser.add_argument("--install", action="store_true", help="install the runtimes first")
    parser.add_argument("--only", nargs="*", help="keys of environments: here, tf457, mlx, llama")
    parser.add_argument("--llama-cpp", type=Path, help="llama.cpp's source, for its converter")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    return parser.parse_args()


def _variants(environment: Environment) -> tuple[tuple[str, ...], ...]:
    """With a cache and without, where a runtime can do both."""
    return ((),) if environment.key == "llama" else ((), ("--no-cache",))


def _reference(environment: Environment, folder: Path, work: Path) -> Logits:
    found = _run(environment, folder, work, ())
    assert isinstance(found["logits"], np.ndarray), found
    return found["logits"]


def _run(
    environment: Environment, folder: Path, work: Path, options: tuple[str, ...]
) -> dict[str, Any]:
    """What a runtime did: its version, and logits or an error."""
    out = work / "logits.npy"
    out.unlink(missing_ok=True)
    script = RUNNERS / environment.runner
    done = subprocess.run(
        [environment.python(work), script, folder, work / "tokens.json", out, *options],
        env=environment.variables(work),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    said = done.stdout.strip().splitlines()
    version = json.loads(said[0])["version"] if said and said[0].startswith("{") else None
    if done.returncode or not out.exists():
        lines = done.stderr.strip().splitlines()
        error = lines[-1] if done.returncode > 0 and lines else f"died ({done.returncode})"
        return {"version": version, "logits": None, "error": error[:300]}
    return {"version": version, "logits": np.load(out), "error": None}


def _convert(folder: Path, source: Path | None) -> str | None:
    """Have llama.cpp's converter write `f32.gguf`; the error if it does not."""
    target = folder / "f32.gguf"
    if target.exists() or source is None:
        return None if target.exists() else "give --llama-cpp"
    script = source / "convert_hf_to_gguf.py"
    command = [sys.executable, script, folder, "--outfile", target, "--outtype", "f32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else f"converter: {(lines or ['failed'])[-1][:300]}"


def _row(
    environment: Environment,
    case: Case,
    options: tuple[str, ...],
    found: dict[str, Any],
    reference: Logits,
    folders: dict[str, Path],
) -> dict[str, Any]:
    """A result, beside what the table says of the same folder."""
    difference = None
    outcome = "refuses"
    if found["logits"] is not None:
        difference = float(np.abs(_log_softmax(found["logits"]) - _log_softmax(reference)).max())
        outcome = "ok" if difference <= environment.tolerance else "silently wrong"
    old = environment.key == "tf457"
    verdicts = [
        verdict
        for verdict in ml.runtime_verdicts(ml.open_parent(folders[case.name]))
        if verdict.runtime == environment.runtime
        and (environment.runtime != "transformers" or verdict.version.startswith("4") is old)
    ]
    return {
        "runtime": environment.runtime,
        "version": found["version"],
        "case": case.name,
        "cache": "--no-cache" not in options,
        "outcome": outcome,
        "largest_difference": difference,
        "error": found["error"],
        "table": verdicts[0].verdict,
        "condition": verdicts[0].condition,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.asarray(shifted - log_sum, dtype=np.float32)


if __name__ == "__main__":
    main()

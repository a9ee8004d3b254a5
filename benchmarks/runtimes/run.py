"""Run every runtime on every case and compare: `python -m benchmarks.runtimes.run --work DIR`."""

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import matformer_lab as ml
from benchmarks.runtimes.cases import CASES, PARENT, TOKENS, Case, write_cases
from benchmarks.runtimes.environments import ENVIRONMENTS, RUNNERS, Environment

_TIMEOUT: Final = 1800
"""Seconds for all cases of a runtime."""

Logits = npt.NDArray[np.float32]


def main() -> None:
    """Write `results.json`."""
    arguments = _arguments()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    folders = write_cases(work)
    here = list(_run_all(ENVIRONMENTS[0], folders, work, None))
    reference = {found.case.name: found for found in here if found.cache}
    results = []
    for environment in ENVIRONMENTS:
        if arguments.only and environment.key not in arguments.only:
            continue
        if arguments.install and (why := environment.install(work)):
            print(f"{environment.runtime}: not installed: {why}", flush=True)
        if not environment.is_installed(work):
            continue
        if environment.key == "mistralrs":
            if arguments.towers is None:
                print("mistral.rs: not run: give --towers", flush=True)
                continue
            own = _with_towers(folders, work, arguments.towers)
        else:
            own = folders
        tried = _run_all(environment, own, work, arguments.llama_cpp)
        for found in here if environment is ENVIRONMENTS[0] else tried:
            right = reference[found.case.name].logits
            assert right is not None, reference[found.case.name].error
            row = _row(environment, found, right, own[found.case.name])
            results.append(row)
            print(json.dumps(row), flush=True)
    arguments.out.write_text(json.dumps({"results": results}, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for environments and slices"
    )
    parser.add_argument("--install", action="store_true", help="install the runtimes first")
    parser.add_argument("--only", nargs="*", help="keys of environments")
    parser.add_argument("--llama-cpp", type=Path, help="llama.cpp's source, for its converter")
    parser.add_argument("--towers", type=Path, help="shapes of E4B's tensors, JSON, for mistral.rs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    return parser.parse_args()


@dataclass(frozen=True)
class Found:
    """What a runtime did with a case: logits [token, word], or an error."""

    case: Case
    cache: bool
    version: str | None
    logits: Logits | None
    error: str | None


def _run_all(
    environment: Environment, folders: dict[str, Path], work: Path, llama_cpp: Path | None
) -> Iterator[Found]:
    """Run a runtime on every case: in one process, unless it may end that itself."""
    if environment.key == "mistralrs":  # 2 GB of towers a case: one after the other
        for case in CASES:
            yield from _run(environment, [(case, True)], folders, work)
        return
    if environment.key != "xllama":
        both = [(case, cache) for cache in (True, False) for case in CASES]
        yield from _run(environment, both, folders, work)
        return
    for case in CASES:
        error = _convert(folders[case.name], llama_cpp)
        if error is not None:
            yield Found(case, True, None, None, error)
        else:
            yield from _run(environment, [(case, True)], folders, work)


def _run(
    environment: Environment,
    chosen: list[tuple[Case, bool]],
    folders: dict[str, Path],
    work: Path,
) -> Iterator[Found]:
    outs = [work / f"logits-{environment.key}-{number}.npy" for number in range(len(chosen))]
    jobs = [
        {"folder": str(folders[case.name]), "out": str(out), "cache": cache}
        for (case, cache), out in zip(chosen, outs, strict=True)
    ]
    for out in outs:
        out.unlink(missing_ok=True)
    jobs_file = work / f"jobs-{environment.key}.json"
    jobs_file.write_text(json.dumps({"tokens": TOKENS, "jobs": jobs}))
    done = subprocess.run(
        [environment.python(work), RUNNERS / environment.runner, jobs_file],
        env=environment.variables(work),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not said:
        raise SystemExit(f"{environment.runtime}: {done.stderr[-2000:]}")
    version, errors = said[0]["version"], [one["error"] for one in said[1:]]
    errors += [f"the process ended ({done.returncode})"] * (len(chosen) - len(errors))
    for (case, cache), out, error in zip(chosen, outs, errors, strict=True):
        logits = np.load(out) if error is None else None
        yield Found(case, cache, version, logits, error)


def _with_towers(folders: dict[str, Path], work: Path, layout: Path) -> dict[str, Path]:
    """The cases with towers of E4B's shapes, where they have towers at all."""
    from benchmarks.runtimes.towers import with_towers, write_towers

    towers = work / "towers.safetensors"
    if not towers.exists():
        write_towers(towers, layout, PARENT["hidden_size"])
    found = dict(folders)
    for case in CASES:
        if not case.text_only:
            found[case.name] = work / f"towers-{folders[case.name].name}"
            if not found[case.name].exists():
                with_towers(folders[case.name], found[case.name], towers)
    return found


def _convert(folder: Path, source: Path | None) -> str | None:
    """Have llama.cpp's converter write `f32.gguf`; the error if it does not."""
    target = folder / "f32.gguf"
    if target.exists() or source is None:
        return None if target.exists() else "give --llama-cpp"
    script = source / "convert_hf_to_gguf.py"
    command = [
        sys.executable,
        str(script),
        str(folder),
        "--outfile",
        str(target),
        "--outtype",
        "f32",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else f"converter: {(lines or ['failed'])[-1][:300]}"


def _row(environment: Environment, found: Found, reference: Logits, folder: Path) -> dict[str, Any]:
    """A result, beside what the table says of the same folder."""
    difference = None
    outcome = "refuses"
    if found.logits is not None:
        difference = float(np.abs(_log_softmax(found.logits) - _log_softmax(reference)).max())
        outcome = "ok" if difference <= environment.tolerance else "silently wrong"
    old = environment.key == "tf457"
    said = next(
        verdict
        for verdict in ml.runtime_verdicts(ml.open_parent(folder))
        if verdict.runtime == environment.runtime
        and (environment.runtime != "transformers" or verdict.version.startswith("4") is old)
    )
    return {
        "runtime": environment.runtime,
        "version": found.version,
        "case": found.case.name,
        "cache": found.cache,
        "outcome": outcome,
        "largest_difference": difference,
        "error": found.error,
        "table": said.verdict,
        "condition": said.condition,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.asarray(shifted - log_sum, dtype=np.float32)


if __name__ == "__main__":
    main()

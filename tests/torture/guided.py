"""The readers of `readers.py` under coverage-guided fuzzing: atheris, where it is installed.

    python -m tests.torture.guided --minutes 10 [--seed 1] [--only READER]

The first byte of an input chooses the reader, the others are the file. libFuzzer keeps what reaches
a branch that no input reached before. What is found is kept in `torture-found/`.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["matformer_lab", "json", "csv", "yaml"]):
    from tests.support.mutations import BYTES
    from tests.torture.readers import Reader, readers


def guided(minutes: float, seed: int, only: str, scratch: Path) -> None:
    """Fuzz until the time is over; never returns."""
    found = Path("torture-found")
    corpus, here = scratch / "corpus", scratch / "readers"
    for folder in (found, corpus, here):
        folder.mkdir(exist_ok=True)
    chosen: list[Reader] = [reader for reader in readers(here) if only in reader.name]
    for number, reader in enumerate(chosen):
        assert reader.accepts(reader.valid), f"{reader.name}: a valid file is refused"
        (corpus / f"{number}").write_bytes(bytes([number]) + reader.valid)
    dictionary = scratch / "dictionary"
    morsels = {morsel for morsel in BYTES if 0 < len(morsel) < 100}
    dictionary.write_text("".join(f'"{_escaped(morsel)}"\n' for morsel in sorted(morsels)))

    def one(data: bytes) -> None:
        if data:
            chosen[data[0] % len(chosen)].accepts(data[1:])

    options = [
        *(f"-max_total_time={int(60 * minutes)}", f"-seed={seed}", "-max_len=20000"),
        *(f"-dict={dictionary}", f"-artifact_prefix={found}/guided-", "-timeout=60"),
        *("-rss_limit_mb=6000", "-print_final_stats=1"),
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def _escaped(morsel: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in morsel)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="readers whose names hold this text")
    asked = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        os.environ["MATFORMER_LAB_CACHE"] = str(Path(folder) / "cache")
        guided(asked.minutes, asked.seed, asked.only, Path(folder))

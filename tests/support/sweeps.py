"""What a sweep's folder holds."""

from pathlib import Path


def stored(out: Path) -> dict[str, int]:
    """Every stored score of a sweep and when it was written, to the nanosecond."""
    from matformer_lab.results.files import STORE

    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for path in sorted((out / STORE).glob("*/*.parquet"))
    }

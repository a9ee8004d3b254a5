"""The names of the files in a sweep folder, all in one place."""

from pathlib import Path
from typing import Final

RESULTS_CSV: Final = "results.csv"
RESULTS_PARQUET: Final = "results.parquet"
"""Written last: while it is there, the folder's tables belong together."""
SLICES_JSON: Final = "slices.json"
RECIPE_YAML: Final = "recipe.yaml"
"""The recipe as it ran."""
SAMPLES: Final = "samples"
STORE: Final = "store"
"""Finished scores, one file each (`sweep.store`)."""

REPORT_HTML: Final = "report.html"
FRONTIER_PNG: Final = "frontier.png"
FRONTIER_SVG: Final = "frontier.svg"
REPORT_FILES: Final = (REPORT_HTML, FRONTIER_PNG, FRONTIER_SVG)
"""Made from the tables, and stale as soon as those change."""
REPORT_KIND: Final = "report"
"""What their seals say they are (`common.own_files`)."""


def samples_file(slug: str, task: str) -> Path:
    """The path, within the sweep folder, of a slice's per-item outcomes on a task."""
    return Path(SAMPLES, slug, f"{task}.parquet")

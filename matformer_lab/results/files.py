"""The names of the files in a sweep folder, all in one place."""

import re
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

SLICES_YAML: Final = "slices.yaml"
"""The slices that a search found."""
SEARCH_JSON: Final = "search.json"
SEARCH_HTML: Final = "search.html"
SEARCH_FILES: Final = (SLICES_YAML, SEARCH_JSON, SEARCH_HTML)
"""What a search writes besides the sweep that proves its slices."""

MARKER: Final = ".matformer_lab_sweep.json"
"""By this file a folder is known as a sweep's (`results.own_files`)."""
STORE_METADATA: Final = b"matformer_lab"
"""The key of the parquet metadata that every stored score carries."""
STORE_NAME: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{24}(-[0-9]+)?\.parquet")
"""The names of stored scores."""


def samples_file(slug: str, task: str) -> Path:
    """The path, within the sweep folder, of a slice's per-item outcomes on a task."""
    return Path(SAMPLES, slug, f"{task}.parquet")

"""Colours and lines of the picture."""

from __future__ import annotations

from typing import Any, Final

# Okabe & Ito's blue and vermilion, which can be told apart with any colour vision.
MEASURED: Final = "#0072B2"
PUBLISHED: Final = "#D55E00"

INK: Final = "#1B1F24"
SOFT: Final = "#5E646D"
MUTED: Final = "#8A8F98"

STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E8EB",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.hashsalt": "matformer-lab",  # makes the same picture the same bytes
}

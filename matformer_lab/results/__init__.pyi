"""A sweep folder's files: one schema, one writer, one reader."""

from .compare import compare_sweeps as compare_sweeps
from .load import load_results as load_results
from .load import load_samples as load_samples
from .read import read_sweep as read_sweep
from .sweep_results import SweepResults as SweepResults

"""Paired intervals and Pareto sets: pure functions on arrays, no files, no models."""

from .outcomes import Outcomes as Outcomes
from .outcomes import make_outcomes as make_outcomes
from .ranking import rank as rank
from .sample_size import items_needed as items_needed
from .study import Study as Study
from .study import make_study as make_study

"""Slices as lm-eval models: for a sweep, and for whoever drives lm-eval themselves."""

from .lm import make_lm as make_lm
from .prefix_scorer import PrefixScorer as PrefixScorer

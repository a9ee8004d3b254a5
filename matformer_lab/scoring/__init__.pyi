"""Fast log-probabilities: shared prefixes and layers computed once. Independent of lm-eval."""

from .packing import Request as Request
from .packing import pack as pack
from .slice_scoring import Answer as Answer
from .slice_scoring import score_slices as score_slices
from .token_budget import TokenBudget as TokenBudget

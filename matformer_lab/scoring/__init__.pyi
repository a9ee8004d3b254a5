"""Fast log-probabilities: shared prefixes and layers computed once. Independent of lm-eval."""

from .batches.packing import Request as Request
from .batches.packing import pack as pack
from .batches.token_budget import TokenBudget as TokenBudget
from .slice_scoring import Answer as Answer
from .slice_scoring import score_slices as score_slices

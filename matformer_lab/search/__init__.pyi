"""Search: the best slice for a budget, found by measuring slices and proven on unseen items."""

from .result import SearchResult as SearchResult
from .result import read_search as read_search
from .run import SearchPlan as SearchPlan
from .run import plan_search as plan_search
from .run import run_search as run_search

"""Requests as packed batches: prefixes shared, tokens bounded, work counted."""

from .one_row import pack_one_row as pack_one_row
from .packed_work import work_of as work_of
from .packing import Batch as Batch
from .packing import Request as Request
from .packing import pack as pack
from .token_budget import TokenBudget as TokenBudget
from .token_budget import budget_for as budget_for

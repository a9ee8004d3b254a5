"""Slices, and the plan of the child checkpoint that each of them describes."""

from .plan import Plan as Plan
from .plan import make_plan as make_plan
from .runtimes import runtime_verdicts as runtime_verdicts
from .sizes import Sizes as Sizes
from .sizes import sizes_of as sizes_of
from .slice import Slice as Slice

"""The method of a search: space and budgets, scan, surrogate, exact solution, refinement."""

from .budget import make_budgets as make_budgets
from .scan import first_scan as first_scan
from .space import make_space as make_space
from .space import slice_of as slice_of
from .surrogate import fit as fit

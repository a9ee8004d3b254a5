"""The files of a sweep folder, one by one: how each is written, and checked when it is read."""

from .description import Description as Description
from .recipe_as_run import RecipeAsRun as RecipeAsRun
from .result_row import ResultRow as ResultRow
from .rows import result_rows as result_rows
from .samples import Samples as Samples
from .score_file import parse_score as parse_score

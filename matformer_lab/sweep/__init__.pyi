"""The main work: a recipe's slices x tasks, scored, stored and written."""

from .recipe import Recipe as Recipe
from .recipe import load_recipe as load_recipe
from .recipe import parse_recipe as parse_recipe
from .run import dry_run as dry_run
from .run import run_sweep as run_sweep

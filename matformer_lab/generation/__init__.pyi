"""Text written by live slices: many prompts at a time, what they share computed once."""

from .generate import NotFiniteLogitsError as NotFiniteLogitsError
from .generate import Prompt as Prompt
from .generate import generate as generate
from .sampling import Sampling as Sampling

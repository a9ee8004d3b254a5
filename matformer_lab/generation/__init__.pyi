"""Text written by live slices: many prompts at a time, what they share computed once."""

from .decoding import NotFiniteLogitsError as NotFiniteLogitsError
from .decoding import generate as generate
from .sampling import Sampling as Sampling

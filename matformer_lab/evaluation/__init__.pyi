"""lm-eval: its tasks and metrics, and this package's scorers as its models."""

from .evaluate import SliceScore as SliceScore
from .evaluate import score_together as score_together
from .models.lm import make_lm as make_lm
from .models.prefix_scorer import PrefixScorer as PrefixScorer
from .score import Metric as Metric
from .score import Score as Score
from .tokenizer import load_tokenizer as load_tokenizer

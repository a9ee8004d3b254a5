"""lm-eval: its tasks and metrics, and this package's scorers as its models."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

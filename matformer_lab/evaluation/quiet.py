"""Keeps lm-eval from showing bars, logging, and repeating work."""

import contextlib
import io
import logging
from collections.abc import Iterator
from functools import cache


@contextlib.contextmanager
def templates_compiled_once(*, sandboxed: bool = False) -> Iterator[None]:
    """Within it, lm-eval compiles each Jinja template once.

    By itself it compiles a task's few templates anew for every field of every example. With this,
    5,000 HellaSwag prompts of 10 shots take seconds instead of 88 s.

    Args:
        sandboxed: Whether to refuse templates that reach for Python's internals, through which one
            can run any code. lm-eval refuses none.
    """
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval.utils import env

    original = env.from_string
    compiled = original
    if sandboxed:
        sandbox = SandboxedEnvironment(
            loader=env.loader, undefined=env.undefined, keep_trailing_newline=True
        )
        sandbox.filters |= env.filters
        compiled = sandbox.from_string
    env.from_string = cache(compiled)
    try:
        yield
    finally:
        env.from_string = original


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Within it, lm-eval and datasets show no progress bars and log nothing below ERROR.

    Their bars cannot be switched off, but write to what `sys.stderr` is when they are created.
    """
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

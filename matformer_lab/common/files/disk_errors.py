"""A disk that refuses to write, as one line for the user."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matformer_lab.common.errors import InputError, one_line


@contextmanager
def disk_errors(path: Path, remedy: str) -> Iterator[None]:
    """Turn an `OSError` raised inside into an `InputError` about `path`.

    Args:
        path: What was to be written.
        remedy: What is left of it, and what to do.
    """
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        reason = error.strerror or one_line(error)
        raise InputError(f"{path}: cannot be written ({reason}{where}); {remedy}") from None

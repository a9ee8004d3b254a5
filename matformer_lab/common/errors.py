"""What the tool raises when the input, and not the tool, is at fault."""


class InputError(ValueError):
    """Bad input.

    The message is what the user reads: what is wrong, where (file, key, layer), and what to do.
    It names parameters in backquotes, as Python callers know them; the command line turns
    `` `max_drop` `` into `--max-drop`.

    Example:
        >>> import matformer_lab as ml
        >>> ml.open_parent("no/such/folder")
        Traceback (most recent call last):
        matformer_lab.common.errors.InputError: no/such/folder: no such folder; ...
    """


def one_line(error: BaseException) -> str:
    """The text of a foreign exception folded into one line, for use inside an `InputError`."""
    return " ".join(str(error).split()) or type(error).__name__

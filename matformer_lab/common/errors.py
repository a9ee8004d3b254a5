"""The exception for bad input, as opposed to bugs."""


class InputError(ValueError):
    """Bad input: a mistake that the user can mend.

    The message is what the user reads: what is wrong, where (file, key, layer), and what to do.
    It names parameters in backquotes, as Python callers know them; the command line turns
    `` `max_drop` `` into `--max-drop`.

    Examples:
        >>> import matformer_lab as ml
        >>> ml.open_parent("no/such/folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        matformer_lab.common.errors.InputError: no/such/folder: no such folder; a parent is ...
    """


def one_line(error: BaseException) -> str:
    """The message of another library's exception on one line, for quoting in an `InputError`."""
    return " ".join(str(error).split()) or type(error).__name__

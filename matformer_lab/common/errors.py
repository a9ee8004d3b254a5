"""What the tool raises when the input, and not the tool, is at fault."""


class InputError(Exception):
    """Bad input. The message is what the user reads: what is wrong, where, and what to do."""


def one_line(error: BaseException) -> str:
    """The text of a foreign exception folded into one line, for use inside an `InputError`."""
    return " ".join(str(error).split()) or type(error).__name__

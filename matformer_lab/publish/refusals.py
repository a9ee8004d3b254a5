"""What the Hub says no to, in a line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from matformer_lab.common.errors import InputError, one_line

_AGAIN = "run the same command again to continue (what has arrived is kept)"


@contextmanager
def explained(ref: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub into one line.

    Args:
        ref: `org/name` or `org/name@branch`, for the message.

    Raises:
        InputError: In place of the client's errors, of any OSError, and of the RuntimeError that
            it raises for an upload that broke.
    """
    from huggingface_hub import errors

    try:
        yield
    except InputError:
        raise
    except errors.LocalTokenNotFoundError:
        raise InputError(
            "not logged in to the Hub; run `hf auth login` (or set HF_TOKEN)"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise InputError(
            f"{ref}: HF_HUB_OFFLINE is set, and a push needs the Hub; unset it"
        ) from None
    except errors.GatedRepoError:
        repo_id = ref.partition("@")[0]
        raise InputError(
            f"{ref}: is gated; accept its licence at https://huggingface.co/{repo_id}, then run "
            "the same command again"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{ref}: no such branch any more; {_AGAIN}") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{ref}: no such repository any more, or none that your token may see; {_AGAIN}"
        ) from None
    except errors.HfHubHTTPError as error:
        raise InputError(f"{ref}: {_by_status(error.response.status_code, error)}") from None
    except (errors.HTTPError, OSError, RuntimeError) as error:  # type: ignore[attr-defined]
        cause = _root(error)
        if isinstance(cause, errors.HfHubHTTPError):
            text = _by_status(cause.response.status_code, cause)
        elif isinstance(cause, PermissionError):  # what the storage behind the Hub says
            text = _by_status(403, cause)
        else:
            text = f"no connection to the Hub ({one_line(cause)}); {_AGAIN}"
        raise InputError(f"{ref}: {text}") from None
    except ValueError as error:  # what the client, or the Hub's check of a card, does not take
        raise InputError(f"{ref}: {one_line(error)}") from None


def _root(error: BaseException) -> BaseException:
    """What a library's error was raised from, in the end."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _by_status(status: int, error: Exception) -> str:
    said = getattr(error, "server_message", None) or one_line(error)
    said = " ".join(str(said).split())
    if status == 401:
        return f"the Hub does not know your token ({said}); run `hf auth login` (or set HF_TOKEN)"
    if status == 403:
        return (
            f"your token has no write access here ({said}); make one that has at "
            "https://huggingface.co/settings/tokens and run `hf auth login`, or push to a name of "
            "your own"
        )
    if status in (409, 412):
        return (
            f"somebody else changed it during the push ({said}); nothing of theirs was replaced: "
            "run the same command again"
        )
    if status == 429:
        return f"too many requests ({said}); wait, then {_AGAIN}"
    if status >= 500:
        return f"the Hub fails at the moment ({said}); {_AGAIN}"
    return f"the Hub refuses ({said})"

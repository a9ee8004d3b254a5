"""The upload itself: repository, branch, files and one commit, by huggingface_hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from matformer_lab.checkpoint.card import CARD_FILE
from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.progress import Progress, bar_console
from matformer_lab.publish.card import metadata_of
from matformer_lab.publish.changes import Changes
from matformer_lab.publish.destinations import MAIN
from matformer_lab.publish.remote import RemoteRepo, commit_title, first_commit
from matformer_lab.publish.storage import storage_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def is_logged_in() -> bool:
    """Whether there is a token, good or not."""
    from huggingface_hub import get_token

    return get_token() is not None


def check_account(api: "HfApi") -> None:
    """Check that somebody is logged in, with a token that may write.

    Raises:
        InputError: The token may only read.
        OSError: There is no token, or none that the Hub knows; `refusals.explained` words it.
    """
    account = api.whoami()
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise InputError(
            f"the token {token.get('displayName', '')} may only read; make one with write access "
            "at https://huggingface.co/settings/tokens, then run `hf auth login`"
        )


def check_card(card: str, ref: str) -> None:
    """Ask the Hub whether it takes a card's metadata, before anything is sent.

    Args:
        card: Its text.
        ref: Where it goes, for errors.

    Raises:
        InputError: It does not, and says why; or the metadata cannot be read at all.
        OSError: The Hub refuses or cannot be reached; `refusals.explained` words it.
    """
    from huggingface_hub import ModelCard

    metadata_of(card, CARD_FILE)  # strictly, before the client reads it less so
    try:
        ModelCard(card, ignore_metadata_errors=True).validate()
    except ValueError as error:
        if isinstance(error, OSError):
            raise
        raise InputError(
            f"{ref}: the Hub does not take the metadata of {CARD_FILE}: {one_line(error)}"
        ) from None


def make_repo(api: "HfApi", repo_id: str, *, private: bool) -> None:
    """Make a model repository that is not there yet."""
    # None leaves it to the organisation, some of which make everything private.
    api.create_repo(repo_id, private=True if private else None)


def head_of(api: "HfApi", repo_id: str, revision: str, repo: RemoteRepo | None) -> str:
    """The commit that the push of a branch builds on; makes the branch if it is not there yet.

    A new branch begins where the repository did, so that it holds nothing of `main`'s.
    """
    if repo is not None and revision in repo.branches:
        return repo.branches[revision]
    first = repo.first if repo is not None else first_commit(api, repo_id)
    if revision != MAIN:
        api.create_branch(repo_id, branch=revision, revision=first)
    return first


def upload(
    api: "HfApi", repo_id: str, revision: str, head: str, changes: Changes, what: str,
    progress: Progress,
) -> str:  # fmt: skip
    """Send what is not there yet, then make one commit of all: the branch has all or nothing.

    Files that an earlier push sent, to whichever branch, are not sent again, committed or not.

    Args:
        api: The Hub.
        repo_id: The repository.
        revision: The branch.
        head: The commit that it must still be at.
        changes: What to send and to remove.
        what: What is sent, for the commit's title.
        progress: Whether to show the client's bars, where they can be seen.

    Returns:
        The new commit.

    Raises:
        InputError: A file changed while it was sent.
        OSError: The Hub refuses or the connection breaks; `refusals.explained` words it.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    additions = []
    for file in changes.to_send:
        addition = CommitOperationAdd(file.path, file.content)
        addition.upload_info.sha256 = bytes.fromhex(file.sha256)  # known: not to be read for it
        additions.append(addition)
    deletions = [CommitOperationDelete(path) for path in changes.to_remove]
    with storage_of(api, repo_id, revision), _bars(progress):
        api.preupload_lfs_files(repo_id, additions, revision=revision, free_memory=False)
        for file in changes.to_send:
            if not file.is_unchanged():
                raise InputError(
                    f"{file.content!s}: changed while it was sent; nothing was committed, run the "
                    "same command again"
                )
        done = api.create_commit(
            repo_id,
            [*additions, *deletions],
            commit_message=commit_title(what),
            revision=revision,
            parent_commit=head,
        )
    return str(done.oid)


@contextmanager
def _bars(progress: Progress) -> Iterator[None]:
    """The client's progress bars, off where nobody would see them."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled() or (progress is True and bar_console().visible):
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()

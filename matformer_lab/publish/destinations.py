"""Where on the Hub a checkpoint, or each member of a family, goes: a repository and a branch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matformer_lab.checkpoint.verification.claim import is_family, members_of
from matformer_lab.common.errors import InputError

MAIN: Final = "main"
"""The branch that a repository's page on the Hub shows."""

_SLOT: Final = "{slice}"
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
# What git allows in a branch's name, and `org/name@branch` can carry.
_BRANCH = re.compile(r"(?!.*(\.\.|//|\.lock(/|$)|/\.))[\w][\w./-]*(?<![./])", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Destination:
    """A checkpoint and where it goes.

    Attributes:
        folder: The checkpoint.
        repo_id: `org/name`.
        revision: A branch of that repository.
    """

    folder: Path
    repo_id: str
    revision: str

    @property
    def ref(self) -> str:
        """`org/name@branch`, as every command takes it; `org/name` for `main`."""
        return self.repo_id + (f"@{self.revision}" if self.revision != MAIN else "")


@dataclass(frozen=True)
class Destinations:
    """Where everything goes.

    Attributes:
        members: The checkpoints.
        index: The repository whose `main` describes all members; None where each has a page of its
            own.
    """

    members: tuple[Destination, ...]
    index: str | None

    @property
    def repo_ids(self) -> tuple[str, ...]:
        """The repositories, each once."""
        return tuple(dict.fromkeys(member.repo_id for member in self.members))


def destinations(
    folder: Path, repo_id: str | None, revision: str | None, repos: str | None
) -> Destinations:
    """Where the checkpoints in `folder` go.

    Args:
        folder: A checkpoint or a family.
        repo_id: `org/name`, or `org/name@branch`; for a family, the repository of all members,
            each on a branch of its folder's name.
        revision: A branch, instead of `main`.
        repos: `org/name` with `{slice}` in it, for a repository each; instead of `repo_id`.

    Raises:
        InputError: They do not fit together, or cannot be names on the Hub.
    """
    if (repo_id is None) == (repos is None):
        raise InputError(
            "give one of the two: a repository (org/name), or `repos` with a pattern like "
            "me/e4b-{slice}"
        )
    family = is_family(folder)
    members = members_of(folder)
    if repo_id is not None:
        repo_id, at, branch = repo_id.partition("@")
        if at and revision is not None:
            raise InputError(f"{repo_id}@{branch}: names a revision; leave out `revision`")
        revision = branch if at else revision
        if family and revision is not None:
            raise InputError(
                f"{folder}: is a family, whose members go to revisions of their own names; leave "
                "out `revision`, or give the folder of one member"
            )
        _check_repo_id(repo_id)
        found = [Destination(one, repo_id, one.name if family else _branch(revision))
                 for one in members]  # fmt: skip
    else:
        assert repos is not None
        if re.findall(r"\{[^}]*\}?|\}", repos) != [_SLOT] or "@" in repos:
            raise InputError(
                f"`repos` is {repos}; it must be a repository's id with {_SLOT} in it once, like "
                "me/e4b-{slice}"
            )
        found = [Destination(one, _check_repo_id(repos.replace(_SLOT, one.resolve().name)),
                             _branch(revision)) for one in members]  # fmt: skip
    for destination in found:
        _check_branch(destination, family and repo_id is not None)
    return Destinations(tuple(found), repo_id if family else None)


def _branch(revision: str | None) -> str:
    return MAIN if revision is None else revision


def _check_repo_id(repo_id: str) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo_id)
        good = bool(_REPO_ID.fullmatch(repo_id))
    except HFValidationError:
        good = False
    if not good:
        raise InputError(f"{repo_id}: cannot be a repository's id on the Hub; it must be org/name")
    return repo_id


def _check_branch(destination: Destination, of_member: bool) -> None:
    name = destination.revision
    if _COMMIT.fullmatch(name):
        raise InputError(f"{name}: is a commit, and a push adds one to a branch; give a branch")
    if not _BRANCH.fullmatch(name) or name.startswith("refs/") or (of_member and name == MAIN):
        where = f"{destination.folder}: " if of_member else ""
        remedy = "rename the folder" if of_member else "give another `revision`"
        raise InputError(f"{where}{name} cannot be the name of a branch here; {remedy}")

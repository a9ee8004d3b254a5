"""What is on the Hub already: repositories, branches, their files, and which of them are ours.

A file on the Hub is push's own while the last commit that changed it is a push, which its title
says. git itself keeps that record: an edit on the Hub's page, another upload and a merged pull
request are commits of their own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from matformer_lab.checkpoint.card import CARD_FILE
from matformer_lab.checkpoint.manifest import MANIFEST_FILE, Manifest, read_manifest
from matformer_lab.common.errors import InputError
from matformer_lab.publish.outgoing import OutgoingFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TITLE: Final = re.compile(r"matformer-lab push: .*")
_ATTRIBUTES: Final = ".gitattributes"


def commit_title(what: str) -> str:
    """The title of a push's commit."""
    return f"matformer-lab push: {what}"


@dataclass(frozen=True)
class RemoteFile:
    """A file on the Hub.

    Attributes:
        path: Its name in the repository.
        size: In bytes.
        sha256: Of its content, for a large file; None for a small one.
        git_sha1: Of its content as a git blob, for a small file; of a pointer for a large one.
        is_ours: Whether a push was the last to change it.
    """

    path: str
    size: int
    sha256: str | None
    git_sha1: str
    is_ours: bool

    def is_same(self, file: OutgoingFile) -> bool:
        """Whether its content is that of `file`."""
        if self.sha256 is not None:
            return self.sha256 == file.sha256
        return self.git_sha1 == file.git_sha1


@dataclass(frozen=True)
class RemoteBranch:
    """A branch, as it is now.

    Attributes:
        commit: Its head.
        files: By path, without what the Hub itself keeps there.
        card: The text of its card, if there is one that can be read.
        manifest: Of the checkpoint that it holds, if it is one of ours.
    """

    commit: str
    files: Mapping[str, RemoteFile]
    card: str | None
    manifest: Manifest | None


@dataclass(frozen=True)
class RemoteRepo:
    """A repository, as it is now.

    Attributes:
        private: Whether only its owners see it.
        branches: Their heads, by name.
        tags: Names.
        first: The commit that it began with, which usually holds nothing but the Hub's own files.
    """

    private: bool
    branches: Mapping[str, str]
    tags: frozenset[str]
    first: str


def look_at_repo(api: "HfApi", repo_id: str) -> RemoteRepo | None:
    """A model repository; None if there is none.

    Raises:
        InputError: It is a dataset or a Space, or has another name by now.
        OSError: The Hub refuses or cannot be reached; `refusals.explained` words it.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = api.model_info(repo_id)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        for kind, called in (("dataset", "a dataset"), ("space", "a Space")):
            if api.repo_exists(repo_id, repo_type=kind):
                raise InputError(
                    f"{repo_id}: is {called} on the Hub, not a model repository; give another name"
                ) from None
        return None
    if info.id != repo_id:
        raise InputError(f"{repo_id}: is called {info.id} on the Hub; give that name")
    refs = api.list_repo_refs(repo_id)
    return RemoteRepo(
        bool(info.private),
        {branch.name: branch.target_commit for branch in refs.branches},
        frozenset(tag.name for tag in refs.tags),
        first_commit(api, repo_id),
    )


def look_at_branch(api: "HfApi", repo_id: str, commit: str) -> RemoteBranch:
    """A branch with the head `commit`."""
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo_id, recursive=True, expand=True, revision=commit)
    files = {
        entry.path: RemoteFile(
            entry.path,
            entry.size,
            entry.lfs.sha256 if entry.lfs else None,
            entry.blob_id,
            bool(entry.last_commit and _TITLE.fullmatch(entry.last_commit.title)),
        )
        for entry in entries
        if isinstance(entry, RepoFile) and entry.path != _ATTRIBUTES
    }
    card, manifest = None, None
    if CARD_FILE in files:
        card = _downloaded(api, repo_id, commit, CARD_FILE).read_text("utf-8", errors="replace")
    if MANIFEST_FILE in files:
        try:
            manifest = read_manifest(_downloaded(api, repo_id, commit, MANIFEST_FILE).parent)
        except InputError:  # somebody else's file of that name
            manifest = None
    return RemoteBranch(commit, files, card, manifest)


def first_commit(api: "HfApi", repo_id: str) -> str:
    """The commit that a repository began with."""
    return api.list_repo_commits(repo_id)[-1].commit_id


def _downloaded(api: "HfApi", repo_id: str, commit: str, file: str) -> Path:
    return Path(api.hf_hub_download(repo_id, file, revision=commit))

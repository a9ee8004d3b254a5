"""What a push changes on a branch, and what stands in its way: a pure comparison."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from matformer_lab.checkpoint.card import CARD_FILE, PICTURE_FILE
from matformer_lab.checkpoint.manifest import MANIFEST_FILE
from matformer_lab.publish.card import has_scores
from matformer_lab.publish.outgoing import OutgoingFile
from matformer_lab.publish.remote import RemoteBranch

CardChoice = Literal["keep", "replace"]
"""What to do with a card on the Hub that push may not replace unasked."""

State = Literal["new", "changed", "there", "kept", "removed"]
"""What becomes of a file: sent for the first time, replaced, the same already, left as it is on the
Hub, removed because it no longer belongs to the checkpoint."""

_WEIGHTS: Final = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")


@dataclass(frozen=True)
class Change:
    """A file and what becomes of it.

    Attributes:
        path: Its name in the repository.
        size: In bytes; as it is on the Hub where it is kept or removed.
        state: What becomes of it.
        file: What is sent; None where nothing is.
    """

    path: str
    size: int
    state: State
    file: OutgoingFile | None = None


@dataclass(frozen=True)
class Changes:
    """What a push does to a branch.

    Attributes:
        files: Every file that it sends, keeps or removes, in the order of their names.
        problems: Why it may not; a line each.
    """

    files: tuple[Change, ...]
    problems: tuple[str, ...] = ()

    @property
    def to_send(self) -> list[OutgoingFile]:
        """The files that are not on the branch yet."""
        return [one.file for one in self.files if one.file and one.state in ("new", "changed")]

    @property
    def to_remove(self) -> list[str]:
        """The files that leave the branch."""
        return [one.path for one in self.files if one.state == "removed"]


def changes(
    outgoing: Iterable[OutgoingFile],
    branch: RemoteBranch | None,
    choice: CardChoice | None,
    slice_name: str | None,
) -> Changes:
    """Compare what is sent with what is there.

    Args:
        outgoing: What is sent, the card included.
        branch: What is there; None if there is no such branch yet.
        choice: What the user wants done with the card.
        slice_name: Which slice is sent; None for a card alone.
    """
    files = {file.path: file for file in outgoing}
    if branch is None:
        return Changes(tuple(Change(f.path, f.size, "new", f) for f in _by_path(files.values())))
    card = _card_state(files[CARD_FILE], branch, choice)
    found: list[Change] = []
    problems = [] if card != "ask" else [_why_ask(branch)]
    if slice_name is not None and (held := _other_slice(branch, slice_name)):
        problems.append(f"holds another slice, {held}; give another `revision`")
    for path, file in files.items():
        there = branch.files.get(path)
        if path == CARD_FILE and card != "replace":
            found.append(Change(path, branch.files[path].size, "kept"))
        elif there is None:
            found.append(Change(path, file.size, "new", file))
        elif there.is_same(file):
            found.append(Change(path, file.size, "there", file))
        else:
            found.append(Change(path, file.size, "changed", file))
            if not there.is_ours and path != CARD_FILE:
                problems.append(f"{path} on the Hub is not what a push wrote")
    for path, there in branch.files.items():
        if path in files or "/" in path:
            continue
        # A kept card shows the picture that an earlier push put beside it.
        if there.is_ours and not (card != "replace" and path == PICTURE_FILE):
            found.append(Change(path, there.size, "removed"))
        elif slice_name is not None and path.endswith(_WEIGHTS):
            problems.append(f"{path} on the Hub would be loaded in place of the checkpoint's files")
    return Changes(tuple(sorted(found, key=lambda one: one.path)), tuple(problems))


def _other_slice(branch: RemoteBranch, name: str) -> str | None:
    """The name of the slice that a push put on the branch, if it is another one."""
    if branch.manifest is None or not branch.files[MANIFEST_FILE].is_ours:
        return None
    held = branch.manifest.slice.name
    return held if held != name else None


def _by_path(files: Iterable[OutgoingFile]) -> Sequence[OutgoingFile]:
    return sorted(files, key=lambda file: file.path)


def _card_state(
    card: OutgoingFile, branch: RemoteBranch, choice: CardChoice | None
) -> Literal["keep", "replace", "ask"]:
    there = branch.files.get(CARD_FILE)
    if there is None or there.is_same(card):
        return "replace"
    if choice is not None:
        return choice
    loses_scores = has_scores(branch.card or "") and not has_scores(_text(card))
    return "replace" if there.is_ours and not loses_scores else "ask"


def _why_ask(branch: RemoteBranch) -> str:
    if branch.files[CARD_FILE].is_ours:
        return (
            "the card on the Hub has scores, which this push would take away: give the `sweep` "
            "again, or say `card` keep or `card` replace"
        )
    return (
        "the card on the Hub was not written by a push, or was edited since: say `card` keep "
        "(leave it as it is) or `card` replace"
    )


def _text(file: OutgoingFile) -> str:
    assert isinstance(file.content, bytes)
    return file.content.decode("utf-8", errors="replace")


def all_problems(found: Iterable[tuple[str, Changes]]) -> Iterator[str]:
    """Every problem, with where it is."""
    for ref, one in found:
        yield from (f"{ref}: {problem}" for problem in one.problems)

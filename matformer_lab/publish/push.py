"""What `matformer-lab push` does: check, compare with the Hub, send."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from matformer_lab.checkpoint.card import (
    CARD_FILE,
    MAX_CARD_BYTES,
    NOTICE_FILE,
    PICTURE_FILE,
)
from matformer_lab.checkpoint.manifest import MANIFEST_FILE, Manifest, read_manifest
from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.paths import StrPath, to_path
from matformer_lab.common.progress import Progress, bytes_bar
from matformer_lab.parent.folder import open_folder
from matformer_lab.publish.card import (
    MemberCard,
    checkpoint_card,
    family_card,
    notice,
)
from matformer_lab.publish.changes import CardChoice, Change, Changes, all_problems, changes
from matformer_lab.publish.destinations import MAIN, Destination, Destinations, destinations
from matformer_lab.publish.outgoing import DiskFiles, OutgoingFile, checkpoint_files, from_memory
from matformer_lab.publish.refusals import explained
from matformer_lab.publish.remote import RemoteBranch, RemoteRepo, look_at_branch, look_at_repo
from matformer_lab.publish.scores import Score, scored_slice, scores_of
from matformer_lab.publish.upload import (
    check_account,
    check_card,
    head_of,
    is_logged_in,
    make_repo,
    upload,
)
from matformer_lab.results.files import FRONTIER_PNG
from matformer_lab.results.read import read_sweep
from matformer_lab.results.sweep_results import SweepResults
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_CARD_CHOICES: Final = (None, "keep", "replace")


@dataclass(frozen=True)
class PushedBranch:
    """A branch that was pushed, or would be.

    Attributes:
        repo_id: The repository.
        revision: The branch.
        files: Every file of the push, and what became of it.
        card: The card as it is sent.
        url: The branch's page.
        commit: Its head afterwards; None if nothing was sent.
    """

    repo_id: str
    revision: str
    files: tuple[Change, ...]
    card: str
    url: str
    commit: str | None = None

    @property
    def ref(self) -> str:
        """`org/name@branch`, as every command takes it."""
        return Destination(Path(), self.repo_id, self.revision).ref

    @property
    def nbytes_to_send(self) -> int:
        """Bytes of the files that are not on the branch yet, wherever else they are."""
        return sum(one.size for one in self.files if one.state in ("new", "changed"))

    def __str__(self) -> str:
        states = [one.state for one in self.files]
        sent = states.count("new") + states.count("changed")
        done = "sent" if self.commit else "to send"
        parts = [
            f"{sent} files, {self.nbytes_to_send:,} bytes {done}" if sent else "",
            f"{states.count('there')} there already" if "there" in states else "",
            f"{states.count('removed')} removed" if "removed" in states else "",
            "card kept" if "kept" in states else "",
        ]
        return f"{self.ref}: {'; '.join(filter(None, parts))}; {self.url}"


@dataclass(frozen=True)
class Pushed:
    """What `push` did, or with `dry_run` would do.

    Attributes:
        branches: One for each checkpoint; for a family in one repository, then its `main`.
        problems: What stands in the way; empty unless `dry_run`.
        notes: What else there is to know.

    Examples:
        >>> import matformer_lab as ml
        >>> done = ml.push("e2b", "me/gemma-3n-e2b", dry_run=True)  # doctest: +SKIP
        >>> [(file.path, file.state) for file in done.branches[0].files][:1]  # doctest: +SKIP
        [('README.md', 'new')]
    """

    branches: tuple[PushedBranch, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Local:
    """A checkpoint, read and checked.

    Attributes:
        destination: Where it goes.
        manifest: Its manifest.
        card: The card in its folder.
        files: Its files, without the card.
        scores: What it scored.
    """

    destination: Destination
    manifest: Manifest
    card: str
    files: tuple[OutgoingFile, ...]
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class _Step:
    """A branch to push: what goes there, and what that changes."""

    repo_id: str
    revision: str
    what: str
    card: str
    changes: Changes

    @property
    def ref(self) -> str:
        return Destination(Path(), self.repo_id, self.revision).ref

    @property
    def sends_card(self) -> bool:
        return any(file.path == CARD_FILE for file in self.changes.to_send)


def push(
    folder: StrPath,
    repo_id: str | None = None,
    *,
    private: bool = False,
    sweep: StrPath | None = None,
    revision: str | None = None,
    repos: str | None = None,
    card: CardChoice | None = None,
    dry_run: bool = False,
    progress: Progress = True,
) -> Pushed:
    """Upload a checkpoint, or a family, to the Hub.

    A family goes into one repository, each member to a branch of its folder's name, or with `repos`
    into a repository each. Every checkpoint is verified first, and nothing is sent unless all are
    right. A branch gets all of a checkpoint in one commit or nothing; after an interruption the
    same call continues. Nothing on the Hub is replaced but what an earlier push put there.

    Args:
        folder: A checkpoint or a family that `slice` wrote.
        repo_id: `org/name`, or `org/name@branch`; made if it is not there.
        private: Make a new repository private; one that is there must be.
        sweep: The folder of a finished sweep of these slices, whose scores go on the card: as a
            table, as the Hub's metadata, with the picture.
        revision: The branch; None: `main`. Not for a family in one repository.
        repos: Instead of `repo_id`: a pattern like `me/e4b-{slice}`, for a repository each.
        card: What to do where the card on the Hub was edited, or has scores that this push does
            not have: "keep" it or "replace" it. None: refuse there.
        dry_run: Look only; send nothing.
        progress: Whether to show progress bars.

    Returns:
        The branches, and what became of every file.

    Raises:
        InputError: A checkpoint is not as `slice` wrote it; the Hub cannot be reached or refuses;
            something that is not push's own is in the way. Nothing was sent then, unless the
            connection broke during the upload.

    Examples:
        >>> import matformer_lab as ml
        >>> ml.push("e2b", "me/gemma-3n-e2b", sweep="runs/mine")  # doctest: +SKIP
        >>> ml.push("family", "me/e4b-slices", dry_run=True).branches[0].ref  # doctest: +SKIP
        'me/e4b-slices@e2b'
    """
    from huggingface_hub import HfApi

    folder = to_path(folder)
    if card not in _CARD_CHOICES:
        raise InputError(f"`card` is {card!r}; it must be keep or replace")
    where = destinations(folder, repo_id, revision, repos)
    results = read_sweep(sweep) if sweep is not None else None
    disk = DiskFiles()
    locals_, notes = _read(where.members, results, disk, progress)
    _verify(folder, progress)
    api = HfApi()
    if not dry_run:
        with explained(where.repo_ids[0]):
            check_account(api)
    known = {one: _look(api, one, private) for one in where.repo_ids}
    steps, more = _steps(api, folder, where, locals_, known, results, card)
    for step in steps:
        if step.sends_card:
            with explained(step.ref):
                check_card(step.card, step.ref)
    problems = tuple(all_problems((step.ref, step.changes) for step in steps))
    notes += more
    if dry_run:
        if not is_logged_in():
            notes += ("not logged in to the Hub: what is private there was not seen",)
        return Pushed(tuple(_pushed(api, step, None) for step in steps), problems, notes)
    if problems:
        rest = f" (and {len(problems) - 1} more; `dry_run` lists them)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{rest}; nothing was sent")
    return Pushed(_send(api, steps, known, private, progress), (), notes)


def _read(
    members: Sequence[Destination],
    sweep: SweepResults | None,
    disk: DiskFiles,
    progress: Progress,
) -> tuple[list[_Local], tuple[str, ...]]:
    """The checkpoints, not yet verified: their files' digests are taken first, so that a change
    after that is noticed."""
    found: list[tuple[Destination, Manifest, dict[str, Path]]] = []
    for destination in members:
        folder = destination.folder
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        manifest = read_manifest(folder)
        if manifest is None:
            raise InputError(
                f"{folder}: has no {MANIFEST_FILE}, so it is not a checkpoint that `matformer-lab "
                "slice` wrote; nothing was sent"
            )
        found.append((destination, manifest, checkpoint_files(folder, manifest)))
    scored = [scored_slice(sweep, manifest) if sweep else None for _, manifest, _ in found]
    notes = tuple(
        f"{one.folder}: {sweep.folder} has no scores of it"
        for (one, _, _), score in zip(found, scored, strict=True)
        if sweep and score is None
    )
    if sweep and not any(scored):
        raise InputError(f"{notes[0]}; give a sweep of this slice")
    locals_ = []
    paths = [path for _, _, files in found for path in files.values()]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: missing; nothing was sent")
    with bytes_bar("read", disk.size_to_read(paths), progress) as advance:
        for (destination, manifest, files), score in zip(found, scored, strict=True):
            text = _card_of(destination.folder)
            scores = scores_of(sweep, score.name) if sweep and score else ()
            outgoing = disk.outgoing(files, advance)
            notice_text = notice(text, str(destination.folder / CARD_FILE))
            if notice_text and not any(
                one.path.upper().startswith(NOTICE_FILE) for one in outgoing
            ):
                outgoing.append(from_memory(NOTICE_FILE, notice_text))
            locals_.append(_Local(destination, manifest, text, tuple(outgoing), scores))
    return locals_, notes


def _card_of(folder: Path) -> str:
    path = folder / CARD_FILE
    if not path.exists():
        raise InputError(f"{path}: missing; slice again, or write a card")
    try:
        return read_small(path, MAX_CARD_BYTES).decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8") from None


def _verify(folder: Path, progress: Progress) -> None:
    result = verify_checkpoint(folder, progress=progress)
    if not result.ok:
        count = len(result.problems)
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise InputError(
            f"{folder}: is not as `matformer-lab slice` wrote it: {result.problems[0]}{more}; "
            "`matformer-lab verify` shows all; nothing was sent"
        )


def _look(api: "HfApi", repo_id: str, private: bool) -> RemoteRepo | None:
    with explained(repo_id):
        repo = look_at_repo(api, repo_id)
    if repo is not None and private and not repo.private:
        raise InputError(
            f"{repo_id}: exists and is public; make it private in its settings on the Hub, or "
            "leave out `private`"
        )
    return repo


def _steps(
    api: "HfApi",
    folder: Path,
    where: Destinations,
    locals_: Sequence[_Local],
    known: dict[str, RemoteRepo | None],
    sweep: SweepResults | None,
    choice: CardChoice | None,
) -> tuple[list[_Step], tuple[str, ...]]:
    """What goes where, the members before the page that describes them."""
    picture = _picture(sweep) if sweep else None
    steps = []
    for one in locals_:
        destination = one.destination
        branch = _branch(api, destination, known[destination.repo_id])
        path = str(destination.folder / CARD_FILE)
        card = checkpoint_card(one.card, path, destination, sweep, one.scores)
        outgoing = [*one.files, from_memory(CARD_FILE, card.encode())]
        if picture and one.scores:
            outgoing.append(picture)
        name = one.manifest.slice.name
        found = changes(outgoing, branch, choice, name)
        steps.append(_Step(destination.repo_id, destination.revision, name, card, found))
    if where.index is None:
        return steps, ()
    page = Destination(folder, where.index, MAIN)
    branch = _branch(api, page, known[where.index])
    if branch is not None and branch.manifest is not None:
        note = f"{where.index}: its main holds {branch.manifest.slice.name} and stays as it is"
        return steps, (note,)
    members = [
        MemberCard(
            one.destination,
            one.manifest,
            one.card,
            _effective(one.destination.folder),
            _nbytes(one.files),
            one.scores,
        )
        for one in locals_
    ]
    members.sort(key=lambda member: (member.effective, member.destination.revision))
    card = family_card(where.index, folder.resolve().name, members, sweep)
    outgoing = [from_memory(CARD_FILE, card.encode())]
    if notice_text := notice(card, CARD_FILE):
        outgoing.append(from_memory(NOTICE_FILE, notice_text))
    if picture and any(one.scores for one in locals_):
        outgoing.append(picture)
    found = changes(outgoing, branch, choice, None)
    what = f"{len(members)} slices"
    return [*steps, _Step(where.index, MAIN, what, card, found)], ()


def _effective(folder: Path) -> int:
    """A checkpoint's effective parameters, counted as those of a parent."""
    parent = open_folder(folder)
    return sizes_of(make_plan(parent, resolve_slice("full", parent))).effective


def _nbytes(files: Iterable[OutgoingFile]) -> int:
    return sum(file.size for file in files)


def _picture(sweep: SweepResults) -> OutgoingFile:
    from matformer_lab.report.figure import figure_files

    return from_memory(PICTURE_FILE, figure_files(sweep)[FRONTIER_PNG])


def _branch(api: "HfApi", destination: Destination, repo: RemoteRepo | None) -> RemoteBranch | None:
    if repo is None:
        return None
    if destination.revision in repo.tags:
        raise InputError(f"{destination.ref}: is a tag, and a push adds to a branch; give a branch")
    # A branch that is not there yet will begin with what the repository began with.
    commit = repo.branches.get(destination.revision, repo.first)
    with explained(destination.ref):
        return look_at_branch(api, destination.repo_id, commit)


def _send(
    api: "HfApi",
    steps: Sequence[_Step],
    known: dict[str, RemoteRepo | None],
    private: bool,
    progress: Progress,
) -> tuple[PushedBranch, ...]:
    done = []
    for repo_id, repo in known.items():
        if repo is None:
            with explained(repo_id):
                make_repo(api, repo_id, private=private)
    for step in steps:
        commit = None
        if step.changes.to_send or step.changes.to_remove:
            with explained(step.ref):
                head = head_of(api, step.repo_id, step.revision, known[step.repo_id])
                commit = upload(
                    api, step.repo_id, step.revision, head, step.changes, step.what, progress
                )
        done.append(_pushed(api, step, commit))
    return tuple(done)


def _pushed(api: "HfApi", step: _Step, commit: str | None) -> PushedBranch:
    url = f"{api.endpoint}/{step.repo_id}" + (
        f"/tree/{step.revision}" if step.revision != MAIN else ""
    )
    return PushedBranch(step.repo_id, step.revision, step.changes.files, step.card, url, commit)

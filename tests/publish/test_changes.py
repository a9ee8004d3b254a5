"""What a push changes on a branch, against what must hold whatever lies there."""

from hypothesis import given
from hypothesis import strategies as st

from matformer_lab.checkpoint.card import PICTURE_FILE
from matformer_lab.publish.changes import CardChoice, changes
from matformer_lab.publish.outgoing import from_memory
from matformer_lab.publish.remote import RemoteBranch, RemoteFile
from tests.support.writable_hub import git_sha1

CARD = "README.md"
NAMES = (
    CARD, "config.json", "model.safetensors", "model-1.safetensors", PICTURE_FILE, "NOTICE",
    "notes.txt", "logs/notes.txt",
)  # fmt: skip

contents = st.sampled_from([b"a", b"b", b"c"])
sent = st.dictionaries(st.sampled_from(NAMES[:6]), contents).flatmap(
    lambda files: contents.map(lambda card: {**files, CARD: card})
)
there = st.dictionaries(st.sampled_from(NAMES), st.tuples(contents, st.booleans()))
choices: st.SearchStrategy[CardChoice | None] = st.sampled_from([None, "keep", "replace"])


@given(sent=sent, there=there, choice=choices)
def test_what_others_put_there_stays(
    sent: dict[str, bytes], there: dict[str, tuple[bytes, bool]], choice: CardChoice | None
) -> None:
    branch = RemoteBranch(
        "0" * 40,
        {
            path: RemoteFile(path, len(data), None, git_sha1(data), is_ours)
            for path, (data, is_ours) in there.items()
        },
        card="",
        manifest=None,
    )
    outgoing = [from_memory(path, data) for path, data in sent.items()]
    found = changes(outgoing, branch, choice, "e2b")
    after = {path: data for path, (data, _) in there.items()}
    for path in found.to_remove:
        del after[path]
    after |= {file.path: sent[file.path] for file in found.to_send}
    theirs = {path: data for path, (data, is_ours) in there.items() if not is_ours}
    # Whatever is done with problems: nothing of theirs is ever removed.
    assert theirs.keys() <= after.keys()
    if found.problems:
        return
    replaced = {path for path, data in theirs.items() if after[path] != data}
    assert replaced <= ({CARD} if choice == "replace" else set())
    kept = {CARD} if any(one.state == "kept" for one in found.files) else set()
    assert all(after[path] == data for path, data in sent.items() if path not in kept)
    assert not kept or (after[CARD] == there[CARD][0] and choice == "keep")
    # Of ours, only what was sent is left, and the picture of a card that stays.
    ours = {path for path, (_, is_ours) in there.items() if is_ours and "/" not in path}
    assert ours & after.keys() <= sent.keys() | ({PICTURE_FILE} if kept else set())
    # Nothing is left that a loader would take instead.
    assert not any(p.endswith(".safetensors") for p in after.keys() - sent.keys() if "/" not in p)


@given(sent=sent)
def test_a_new_branch_gets_all(sent: dict[str, bytes]) -> None:
    outgoing = [from_memory(path, data) for path, data in sent.items()]
    found = changes(outgoing, None, None, "e2b")
    assert {file.path for file in found.to_send} == sent.keys()
    assert not found.to_remove and not found.problems

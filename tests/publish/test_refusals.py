"""What a push refuses, a test for each reason: in one line, with nothing of anybody's lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import matformer_lab as ml
from matformer_lab.common.errors import InputError
from tests.support.command import run_here
from tests.support.writable_hub import Blob, WritableHub, new_repo

REPO = "me/slices"


def refused(said: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        ml.push(*arguments, progress=False, **options)
    message = str(caught.value)
    assert re.search(said, message), message
    assert "\n" not in message


# --- what is not a checkpoint of ours ------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / "matformer_lab.json").unlink(), "has no matformer_lab.json"),
    "one bit": (lambda f: flip(f / "model.safetensors"), "not as .* wrote it: tensor"),
    "another config": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text() + " "),
        "config.json",
    ),
    "a file too few": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: missing"),
    "no card": (lambda f: (f / "README.md").unlink(), "README.md: missing"),
    "no folder": (shutil.rmtree, "no such folder"),
}


@pytest.mark.parametrize(("damage", "said"), BROKEN.values(), ids=BROKEN)
def test_what_is_not_ours_stays_here(
    damage: Callable[[Path], object], said: str, hub: WritableHub, mine: Path
) -> None:
    damage(mine)
    refused(said, mine, REPO)
    assert not hub.requests


def test_one_bad_member_keeps_the_family_here(
    hub: WritableHub, family: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(family, tmp_path / "copy"))
    path = next((copy / "e2b").glob("*.safetensors"))
    path.chmod(0o644)
    flip(path)
    refused("e2b: tensor", copy, REPO)
    assert not hub.requests


def test_only_the_checkpoints_own_files_are_sent(hub: WritableHub, mine: Path) -> None:
    (mine / ".cache").mkdir()
    (mine / ".cache" / "secret").write_text("mine")
    (mine / ".gitattributes").write_text("mine")
    ml.push(mine, REPO, progress=False)
    there = hub.model(REPO).branches["main"].files
    assert not any(path.startswith(".cache") for path in there)
    assert there[".gitattributes"].data != b"mine"


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give one of the two"),
        ({"repo_id": REPO, "repos": "me/{slice}"}, "give one of the two"),
        ({"repo_id": "slices"}, "must be org/name"),
        ({"repo_id": "datasets/me/slices"}, "must be org/name"),
        ({"repo_id": "me/-x"}, "must be org/name"),
        ({"repo_id": f"{REPO}@a", "revision": "b"}, "leave out `revision`"),
        ({"repo_id": REPO, "revision": "0" * 40}, "is a commit"),
        ({"repo_id": REPO, "revision": "refs/pr/1"}, "name of a branch"),
        ({"repo_id": REPO, "revision": "a b"}, "name of a branch"),
        ({"repo_id": REPO, "revision": "a..b"}, "name of a branch"),
        ({"repo_id": REPO, "revision": ""}, "name of a branch"),
        ({"repo_id": REPO, "revision": "x.lock"}, "name of a branch"),
        ({"repos": "me/all"}, r"with \{slice\} in it once"),
        ({"repos": "me/{slice}-{name}"}, r"with \{slice\} in it once"),
        ({"repo_id": REPO, "card": "mine"}, "must be keep or replace"),
    ],
)
def test_names_that_cannot_be(
    options: dict[str, Any], said: str, hub: WritableHub, child: Path
) -> None:
    refused(said, child, **options)
    assert not hub.requests


def test_members_have_revisions_of_their_own(hub: WritableHub, family: Path) -> None:
    refused("leave out `revision`", family, REPO, revision="x")


# --- accounts and repositories -------------------------------------------------------------------


def test_not_logged_in(hub: WritableHub, child: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    refused("not logged in .*hf auth login", child, REPO)
    assert not hub.requests
    done = run_here("push", child, REPO)
    assert done.code == 2 and done.err.startswith("error: not logged in")
    assert done.err.count("\n") == 1
    looked = ml.push(child, REPO, dry_run=True, progress=False)  # which needs nobody's name
    assert looked.branches and "not logged in" in looked.notes[0]


@pytest.mark.parametrize(
    ("token", "said"), [("hf_reader", "may only read"), ("hf_wrong", "does not know your token")]
)
def test_a_token_that_will_not_do(
    token: str, said: str, hub: WritableHub, child: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    refused(said, child, REPO)
    assert hub.writes() == []


def test_somebody_elses_name(hub: WritableHub, child: Path) -> None:
    refused("others/slices: your token has no write access", child, "others/slices")
    assert not hub.repos


@pytest.mark.parametrize(("kind", "said"), [("datasets", "a dataset"), ("spaces", "a Space")])
def test_a_repository_of_another_kind(kind: str, said: str, hub: WritableHub, child: Path) -> None:
    hub.repos[kind, REPO] = new_repo()
    refused(f"is {said} on the Hub", child, REPO)
    assert hub.writes() == []


def test_a_repository_that_was_renamed(hub: WritableHub, child: Path) -> None:
    hub.repos["models", REPO] = new_repo()
    hub.renamed[REPO] = "me/better"
    refused("is called me/better on the Hub", child, REPO)
    assert hub.writes() == []


def test_a_licence_that_is_not_accepted(hub: WritableHub, child: Path) -> None:
    hub.repos["models", REPO] = new_repo()
    hub.answers["GET /api/models/"] = (403, "GatedRepo", "Access to model is restricted.")
    refused(f"accept its licence at https://huggingface.co/{REPO}", child, REPO)
    assert hub.writes() == []


def test_a_public_repository_is_not_private(hub: WritableHub, child: Path) -> None:
    hub.repos["models", REPO] = new_repo()
    refused("is public", child, REPO, private=True)
    assert hub.writes() == []


def test_a_tag_is_no_branch(hub: WritableHub, child: Path) -> None:
    repo = hub.repos["models", REPO] = new_repo()
    repo.tags["v1"] = repo.branches["main"]
    refused("is a tag", child, f"{REPO}@v1")


def test_offline(hub: WritableHub, child: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("HF_HUB_OFFLINE is set", child, REPO)
    assert not hub.requests


def test_a_card_that_the_hub_does_not_take(hub: WritableHub, mine: Path) -> None:
    (mine / "README.md").write_text("---\nlicense: [a, b]\n---\n# Mine\n")
    refused('"license" must be a string', mine, REPO)
    assert not hub.received


# --- what others put there -----------------------------------------------------------------------


def test_a_revision_that_moved(hub: WritableHub, child: Path) -> None:
    theirs = {"notes.txt": Blob(b"theirs")}

    def moves() -> None:
        hub.model(REPO).commit("main", theirs)

    hub.before[f"POST /api/models/{REPO}/commit/main"] = moves
    refused("somebody else changed it during the push", child, REPO)
    assert hub.model(REPO).texts() == {"notes.txt": b"theirs"}
    received = dict(hub.received)
    ml.push(child, REPO, progress=False)
    assert hub.received == received  # the weights were there already
    assert hub.model(REPO).texts()["notes.txt"] == b"theirs"


def test_an_edited_card_is_not_overwritten(hub: WritableHub, mine: Path) -> None:
    ml.push(mine, REPO, progress=False)
    repo = hub.model(REPO)
    repo.commit("main", {"README.md": Blob(b"# Theirs\n")}, "Update README.md")
    head = repo.branches["main"]
    refused("was not written by a push, or was edited since.*`card` keep", mine, REPO)
    assert repo.branches["main"] == head
    (branch,) = ml.push(mine, REPO, card="keep", progress=False).branches
    assert repo.texts()["README.md"] == b"# Theirs\n" and branch.commit is None
    ml.push(mine, REPO, card="replace", progress=False)
    assert b"matformer-lab" in repo.texts()["README.md"]
    # What a push wrote is push's own, and follows the card in the folder.
    (mine / "README.md").write_text("---\nlicense: gemma\n---\n# Mine\n")
    ml.push(mine, REPO, progress=False)
    assert b"# Mine" in repo.texts()["README.md"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "matformer_lab.json"])
def test_a_strangers_file_is_not_replaced(name: str, hub: WritableHub, child: Path) -> None:
    repo = hub.repos["models", REPO] = new_repo()
    repo.commit("main", {name: Blob(b"theirs", lfs=name.endswith("s"))})
    head = repo.branches["main"]
    refused(f"{name} on the Hub is not what a push wrote.*nothing was sent", child, REPO)
    assert repo.branches["main"] == head and hub.writes() == []


@pytest.mark.parametrize("where", ["on the branch", "where every branch begins"])
def test_weights_that_would_be_loaded_instead(where: str, hub: WritableHub, family: Path) -> None:
    repo = hub.repos["models", REPO] = new_repo()
    if where != "on the branch":  # a history that was squashed
        repo.branches.clear()
    branch = "e2b" if where == "on the branch" else "main"
    repo.commit(branch, {"model.safetensors": Blob(b"theirs", lfs=True)})
    refused("model.safetensors on the Hub would be loaded in place", family, REPO)
    assert hub.writes() == []


def test_own_files_that_are_no_part_any_more_are_removed(
    hub: WritableHub, child: Path, tmp_path: Path
) -> None:
    parent = next(child.parent.parent.glob("google*/gemma-3n-E4B"))
    sharded = ml.write_slices(
        parent, "1/2", tmp_path / "half", max_shard_size=200_000, progress=False
    ).folder
    ml.push(sharded, REPO, progress=False)
    hub.model(REPO).commit("main", {"notes.txt": Blob(b"theirs")})
    ml.push(child, REPO, progress=False)
    there = hub.model(REPO).texts()
    assert [path for path in there if "safetensors" in path] == ["model.safetensors"]
    assert there["notes.txt"] == b"theirs"
    assert ml.compare_checkpoints(f"{REPO}", child).ok


def test_another_slice_is_not_replaced(hub: WritableHub, child: Path, family: Path) -> None:
    ml.push(child, REPO, progress=False)
    refused("holds another slice, uniform-1-2; give another `revision`", family / "e2b", REPO)
    done = run_here("push", family / "e2b", REPO, "--revision", "small")
    assert done.code == 0 and done.out.startswith(f"{REPO}@small: "), done
    assert f"bytes sent; {hub.url}/{REPO}/tree/small" in done.out
    assert "small" in hub.model(REPO).branches


def test_a_checkpoint_on_main_stays_beside_a_family(
    hub: WritableHub, child: Path, family: Path
) -> None:
    ml.push(child, REPO, progress=False)
    head = hub.model(REPO).branches["main"]
    done = ml.push(family, REPO, progress=False)
    assert "its main holds uniform-1-2 and stays as it is" in done.notes[0]
    assert hub.model(REPO).branches["main"] == head
    # A member's branch begins empty: nothing of main's is in it.
    assert set(hub.model(REPO).texts("e2b")) == {path.name for path in (family / "e2b").iterdir()}


# --- sweeps --------------------------------------------------------------------------------------


def test_scores_of_another_parent(
    hub: WritableHub, child: Path, scored: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(scored, tmp_path / "other"))
    fingerprint = json.loads((scored / "slices.json").read_text())["parent"]["fingerprint"]
    for name in ("slices.json", "recipe.yaml"):
        (other / name).write_text((other / name).read_text().replace(fingerprint, "5f" * 32))
    refused("its scores are of another parent, tiny with fingerprint 5f", child, REPO, sweep=other)
    assert not hub.requests


def test_scores_of_other_slices(hub: WritableHub, child: Path, scored: Path) -> None:
    refused("has no scores of it; give a sweep of this slice", child, REPO, sweep=scored)
    assert not hub.requests


# --- connections ---------------------------------------------------------------------------------


def test_a_connection_that_breaks_now_and_then(hub: WritableHub, family: Path) -> None:
    hub.drop_puts = 3
    ml.push(family, REPO, progress=False)
    assert ml.verify_checkpoint(f"{REPO}@e2b", "tiny", progress=False).ok


def test_a_connection_that_is_lost(hub: WritableHub, family: Path) -> None:
    hub.answers["POST /api/models/me/slices/commit/e2b"] = (503, "", "Service Unavailable")
    refused("e2b: the Hub fails at the moment.*run the same command again", family, REPO)
    first = dict(hub.received)
    assert "e2b" in hub.model(REPO).branches and not hub.model(REPO).texts("e2b")
    hub.answers.clear()
    ml.push(family, REPO, progress=False)
    assert hub.received == first  # nothing was sent twice
    assert ml.verify_checkpoint(f"{REPO}@e2b", "tiny", progress=False).ok


def test_uploads_that_never_arrive(hub: WritableHub, family: Path) -> None:
    hub.drop_puts = 10_000
    refused("no connection to the Hub.*run the same command again", family, REPO)
    assert not hub.model(REPO).texts()
    hub.drop_puts = 0
    ml.push(family, REPO, progress=False)
    assert ml.verify_checkpoint(f"{REPO}@e2b", "tiny", progress=False).ok


def test_a_hub_that_is_not_there(
    hub: WritableHub, child: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused("no connection to the Hub", child, REPO)


def test_a_hub_without_xet_storage(
    hub: WritableHub, child: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hf_xet, the client's default, with a Hub that has no such storage: files go as they are."""
    from huggingface_hub import constants

    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    ml.push(child, REPO, progress=False)
    assert not constants.HF_HUB_DISABLE_XET
    assert hub.received and hub.model(REPO).texts()["model.safetensors"]


def test_xet_storage(hub: WritableHub, child: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """hf_xet's own upload: chunks in xorbs, then a shard that says which file they are."""
    from huggingface_hub import constants

    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    weights = (child / "model.safetensors").read_bytes()
    hub.has_xet(weights)
    ml.push(child, REPO, progress=False)
    assert not hub.received, "nothing goes as an LFS object"
    assert 0.4 < hub.xorb_bytes / len(weights) < 1.1
    assert hub.model(REPO).texts()["model.safetensors"] == weights
    sent = hub.xorb_bytes
    ml.push(child, REPO, progress=False)
    assert hub.xorb_bytes == sent


def test_xet_storage_that_fails(
    hub: WritableHub, child: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.answers["GET /api/models/me/slices/xet-write-token"] = (403, "", "not for you")
    refused("run the same command again|may not|no write access", child, REPO)
    assert not hub.model(REPO).texts()


def test_a_file_that_changes_while_it_is_sent(hub: WritableHub, mine: Path) -> None:
    weights = mine / "model.safetensors"
    hub.before["POST /me/slices.git"] = lambda: os.utime(weights, (1, 1))
    refused("changed while it was sent; nothing was committed", mine, REPO)
    assert not hub.model(REPO).texts()


def test_a_kill_in_mid_upload(hub: WritableHub, family: Path, tmp_path: Path) -> None:
    hub.stall_after = 2
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    env |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_writer"}
    command = [sys.executable, "-m", "matformer_lab", "push", str(family), REPO]
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    try:
        assert hub.stalled.wait(120)
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    repo = hub.model(REPO)
    arrived = set(hub.received)
    assert arrived and not any(repo.texts(branch) for branch in repo.branches)
    hub.stall_after = None
    hub.received.clear()
    ml.push(family, REPO, progress=False)
    assert not arrived & set(hub.received)  # only the rest was sent
    for name in ("e2b", "e2.98b-layer"):
        assert ml.verify_checkpoint(f"{REPO}@{name}", "tiny", progress=False).ok

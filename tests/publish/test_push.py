"""Slices on a Hub: pushed by the real client over HTTP on loopback, and read back from there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import matformer_lab as ml
from matformer_lab.common.errors import InputError
from tests.support.command import run_here
from tests.support.writable_hub import Blob, WritableHub

REPO = "me/slices"
SLICES = ("e2b", "e2.98b-layer")


def sent(folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint, without the card."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


def test_a_checkpoint_arrives_whole_and_only_once(hub: WritableHub, child: Path) -> None:
    done = ml.push(child, REPO, progress=False)
    there = hub.model(REPO).texts()
    card = there.pop("README.md").decode()
    assert there.pop("NOTICE").decode().startswith("Gemma is provided under and subject to")
    assert there == sent(child)
    assert 'from_pretrained("me/slices"' in card and "(DIR" not in card
    (branch,) = done.branches
    assert branch.commit == hub.model(REPO).branches["main"].oid
    assert {one.state for one in branch.files} == {"new"}
    # One commit on top of the Hub's own.
    assert len([*hub.model(REPO).branches["main"].history()]) == 2
    assert ml.verify_checkpoint(REPO, progress=False).ok
    before, received = dict(hub.requests), dict(hub.received)
    (again,) = ml.push(child, REPO, progress=False).branches
    assert again.commit is None and {one.state for one in again.files} == {"there"}
    assert hub.received == received
    assert [
        request for request in hub.writes() if hub.requests[request] != before.get(request)
    ] == []


def test_a_family_is_a_branch_each_that_every_command_reads(
    hub: WritableHub, family: Path, tmp_path: Path
) -> None:
    done = ml.push(family, REPO, progress=False)
    assert [one.ref for one in done.branches] == [f"{REPO}@e2.98b-layer", f"{REPO}@e2b", REPO]
    repo = hub.model(REPO)
    for name in SLICES:
        there = repo.texts(name)
        assert f'revision="{name}"' in there.pop("README.md").decode()
        assert there == sent(family / name)  # `tiny` is not under Gemma's licence: no notice
    index = repo.texts()
    assert set(index) == {"README.md"}
    assert "| e2b | 30 | 86,996 |" in index["README.md"].decode()
    # Pieces that members share went once.
    weights = {path.stat().st_ino: path.stat().st_size for path in family.glob("*/*.safetensors")}
    assert sum(hub.received.values()) == sum(weights.values())
    # Read back, by reference.
    parent = ml.open_parent(f"{REPO}@e2b")
    assert parent.revision == repo.branches["e2b"].oid
    assert parent.text.num_hidden_layers == 30
    assert run_here("plan", f"{REPO}@e2b", "--slice", "1/2").code == 0
    out = tmp_path / "grandchild"
    assert run_here("slice", f"{REPO}@e2b", "--slice", "1/2", "--out", out).code == 0
    assert run_here("verify", out, "--parent", f"{REPO}@e2b").code == 0
    done_ = run_here("verify", f"{REPO}@e2b", "--parent", "tiny")
    assert done_.code == 0, done_
    assert run_here("verify", f"{REPO}@e2b").code == 0


def test_a_repository_each(hub: WritableHub, family: Path) -> None:
    done = ml.push(family, repos="me/tiny-{slice}", private=True, progress=False)
    assert [one.ref for one in done.branches] == ["me/tiny-e2.98b-layer", "me/tiny-e2b"]
    for name in SLICES:
        repo = hub.model(f"me/tiny-{name}")
        assert repo.private and [*repo.branches] == ["main"]
        assert sent(family / name).items() <= repo.texts().items()


def front_of(card: bytes) -> dict[str, Any]:
    """The metadata of a card, as PyYAML reads it."""
    found = yaml.safe_load(card.decode().split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_scores_go_on_the_card(hub: WritableHub, family: Path, scored: Path) -> None:
    from huggingface_hub import ModelCard

    done = ml.push(family, REPO, sweep=scored, progress=False)
    assert len(done.notes) == 1 and "e2.98b-layer: " in done.notes[0]
    assert "has no scores of it" in done.notes[0]
    assert "frontier.png" not in hub.model(REPO).texts("e2.98b-layer")
    sweep = ml.read_sweep(scored)
    truth = {(row["slice"], row["task"]): row for row in sweep.scores().to_dict("records")}
    there = hub.model(REPO).texts("e2b")
    text = there["README.md"].decode()
    results = ModelCard(text).data.get("eval_results")
    found = {one.dataset_name: one for one in results}
    assert set(found) == {"HellaSwag", "BoolQ", "MMLU"}
    for title, one in found.items():
        row = truth["e2b", title.lower()]
        assert one.metric_value == round(row["score"], 2)
        assert one.metric_args is not None
        assert one.metric_args["low"] == round(row["low"], 2)
        assert one.metric_args["high"] == round(row["high"], 2)
        assert f"| {row['score']:.1f} | \\[{row['low']:.1f}, {row['high']:.1f}\\] |" in text
    assert found["BoolQ"].dataset_type == "super_glue"
    assert found["HellaSwag"].metric_type == "acc_norm"
    assert "](frontier.png)" in text and there["frontier.png"].startswith(b"\x89PNG")
    assert "matformer-lab sweep recipe.yaml" in text and str(scored.parent) not in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    again = ml.resolve_slices(recipe["slices"], ml.open_parent("tiny"))
    assert [one.name for one in again] == [one.name for one in sweep.scored]
    assert ml.parse_recipe(recipe).limit == 50 and "`limit: 50`" in text
    # The page of the family says the same of all of them.
    index = hub.model(REPO).texts()
    assert {one["name"] for one in front_of(index["README.md"])["model-index"]} == {"e2b"}
    assert f"{truth['e2b', 'boolq']['score']:.1f} \\[" in index["README.md"].decode()
    assert index["frontier.png"] == there["frontier.png"]
    # Without the sweep, the next push would take the scores away: that has to be said.
    with pytest.raises(InputError, match="has scores, which this push would take away"):
        ml.push(family, REPO, progress=False)
    done = ml.push(family, REPO, card="keep", progress=False)
    assert {one.state for branch in done.branches for one in branch.files} == {"there", "kept"}


def test_the_card_keeps_licence_and_gate(hub: WritableHub, child: Path) -> None:
    ml.push(child, REPO, progress=False)
    front = front_of(hub.model(REPO).texts()["README.md"])
    assert front["base_model"] == "google/gemma-3n-E4B"
    assert front["base_model_relation"] == "finetune"
    assert front["license"] == "gemma"
    assert front["extra_gated_button_content"] == "Acknowledge license"
    assert front["extra_gated_prompt"].startswith("To access Gemma on Hugging Face, you're")
    assert front["extra_gated_fields"] == {"Company": "text", "I agree": "checkbox"}


def test_the_commands_on_the_card_write_the_same_slice(child: Path, tmp_path: Path) -> None:
    """Google's parent is here a folder beside, as the card names it."""
    card = (child / "README.md").read_text()
    script = card.split("## How it was made")[1].split("```")[1].strip()
    parent = next(child.parent.parent.glob("google*/gemma-3n-E4B"))
    document, _, lines = script.partition("\nEND\n")
    name, _, text = document.removeprefix("cat > ").partition(" <<'END'\n")
    (tmp_path / name).write_text(text + "\n")
    for line in lines.splitlines():
        arguments = line.replace("gemma-3n-E4B", str(parent)).split()[1:]
        arguments = [str(tmp_path / a) if "uniform" in a else a for a in arguments]
        assert run_here(*arguments).code == 0, line
    assert ml.compare_checkpoints(tmp_path / "uniform-1-2", child).ok


def test_a_dry_run_lists_and_sends_nothing(hub: WritableHub, family: Path, scored: Path) -> None:
    done = run_here("push", family, REPO, "--sweep", scored, "--dry-run")
    assert done.code == 0, done.err
    assert hub.writes() == [] and not hub.repos
    for path in family.glob("*/*.safetensors"):
        assert path.name in done.out and f"{path.stat().st_size:,}" in done.out
    assert "model-index:" in done.out and "frontier.png" in done.out and " new" in done.out


def test_a_dry_run_says_what_is_there(hub: WritableHub, mine: Path) -> None:
    ml.push(mine, REPO, progress=False)
    before = hub.writes()
    (mine / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    done = run_here("push", mine, REPO, "--dry-run")
    assert done.code == 0 and hub.writes() == before
    states = dict(re.findall(r"\|?(\S+)\W+[\d,]+\W+(there|changed|removed)\b", done.out))
    assert states["model.safetensors"] == "there" and states["README.md"] == "changed"
    assert states["NOTICE"] == "removed"
    hub.model(REPO).commit("main", {"README.md": Blob(b"edited")})
    done = run_here("push", mine, REPO, "--dry-run")
    assert done.code == 0 and "--card keep" in done.err and "--card replace" in done.err

"""Families: ordinary checkpoints that share files, and survive each other's removal."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from matformer_lab.checkpoint.family import add_to_family, write_family
from matformer_lab.checkpoint.pieces import distinct_pieces, family_members
from matformer_lab.checkpoint.verification.verify import (
    compare_checkpoints,
    verify_checkpoint,
)
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import Plan, make_plan
from matformer_lab.slicing.slice import Slice
from tests.support.command import CommandResult
from tests.support.kill_loop import contents

Cli = Callable[..., CommandResult]
LARGE = 5 * 10**9
SOME = ("e2b", "e1.96b-layer", "e2.98b-block", "e4b")


def plans_of(parent: Path, *slices: object, text_only: bool = False) -> list[Plan]:
    opened = open_parent(str(parent))
    found = resolve_slices(slices, opened)
    return [make_plan(opened, slice_, text_only=text_only) for slice_ in found]


def disk_of(folder: Path) -> int:
    """Bytes of weights, a file with several names counted once."""
    stats = [path.stat() for path in folder.rglob("*.safetensors")]
    return sum({stat.st_ino: stat.st_size for stat in stats}.values())


@pytest.fixture(scope="module")
def family(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("family") / "of-four"
    return write_family(plans_of(miniature, *SOME), out)


def test_every_member_is_the_checkpoint_it_would_be_alone(
    family: Path, miniature: Path, tmp_path: Path
) -> None:
    assert {path.name for path in family.iterdir()} == set(SOME)
    for plan in plans_of(miniature, *SOME):
        alone = write_checkpoint(plan, tmp_path / plan.slice.slug)
        member = family / plan.slice.slug
        assert compare_checkpoints(member, alone).ok
        assert verify_checkpoint(member).ok
        names = {path.name for path in alone.iterdir()} - {"model.safetensors"}
        assert names <= {path.name for path in member.iterdir()}
        manifests = [json.loads((f / "matformer_lab.json").read_text()) for f in (member, alone)]
        assert manifests[0]["tensors"] == manifests[1]["tensors"]


def test_transformers_loads_a_member(family: Path, miniature: Path) -> None:
    import torch
    from transformers import Gemma3nForCausalLM

    out = family.parent / "text-family"
    write_family(plans_of(miniature, "e2b", "e4b", text_only=True), out)
    model = Gemma3nForCausalLM.from_pretrained(out / "e2b", dtype=torch.float32)
    assert model.config.num_hidden_layers == 30
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
    shutil.rmtree(out)


def test_what_differs_is_on_the_disk_once(family: Path, miniature: Path) -> None:
    members = family_members(plans_of(miniature, *SOME), LARGE)
    pieces = distinct_pieces(members)
    assert disk_of(family) == sum(piece.nbytes for piece in pieces)
    # Stated independently: tensors by name and by what they are cut from.
    cuts = {(t.name, t.source, t.axis, t.ranges): t.nbytes for m in members for t in m.plan.tensors}
    assert sum(t.nbytes for p in pieces for t in p.tensors) == sum(cuts.values())


def test_the_goal_of_the_published_slices(miniature: Path) -> None:
    """16 slices in at most 0.12x of the bytes of 16 checkpoints (E4B: 24.0 of 219.5 GB)."""
    plans = plans_of(miniature, "published")
    pieces = distinct_pieces(family_members(plans, LARGE))
    tensors = sum(t.nbytes for piece in pieces for t in piece.tensors)
    assert tensors <= 0.12 * sum(plan.nbytes for plan in plans)


def test_removing_and_moving_members_harms_none(
    family: Path, miniature: Path, tmp_path: Path
) -> None:
    parent = open_parent(str(miniature))
    copy = tmp_path / "family"
    write_family(plans_of(miniature, *SOME), copy)
    shutil.rmtree(copy / "e4b")
    (copy / "e2b").rename(tmp_path / "moved")
    shutil.copytree(copy / "e1.96b-layer", tmp_path / "copied")
    shutil.rmtree(copy / "e1.96b-layer")
    for folder in (tmp_path / "moved", tmp_path / "copied", copy / "e2.98b-block"):
        assert verify_checkpoint(folder, parent).ok
    assert verify_checkpoint(family, parent).ok


def test_shared_files_are_protected_against_writes(family: Path) -> None:
    for path in family.rglob("*.safetensors"):
        assert path.stat().st_mode & 0o222 == 0


def test_the_command_line(miniature: Path, tmp_path: Path, cli: Cli) -> None:
    several = [part for name in SOME for part in ("--slice", name)]
    done = cli("slice", miniature, *several, "--out", "family", "--max-shard-size", "30KB")
    assert (done.code, done.err) == (0, ""), done.err
    assert "4 slices" in done.out
    done = cli("verify", "family", "--parent", miniature, "--json")
    assert done.code == 0 and json.loads(done.out)["ok"]
    assert cli("verify", "family/e2b", "--parent", miniature).code == 0
    assert cli("verify", "family").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["family"]
    again = cli("slice", miniature, *several, "--out", "family")
    assert again.code == 2 and "already exists and has all of these slices" in again.err


def test_a_slice_added_later_shares_what_is_there(
    family: Path, miniature: Path, tmp_path: Path, cli: Cli
) -> None:
    """The family grown one by one is the one written at once: same bytes, same room."""
    first, *later = SOME
    out = tmp_path / "family"
    assert cli("slice", miniature, "--slice", first, "--slice", later[0], "--out", out).code == 0
    for name in later[1:]:
        done = cli("slice", miniature, "--slice", first, "--slice", name, "--out", out)
        assert (done.code, done.out, done.err) == (0, f"{out}: added {name}\n", "")
    assert contents(out) == contents(family)
    assert disk_of(out) == disk_of(family)
    assert cli("verify", out, "--parent", miniature).code == 0


def test_what_a_family_does_not_take(miniature: Path, pico: Path, tmp_path: Path, cli: Cli) -> None:
    out = write_family(plans_of(miniature, "e2b", "1/4"), tmp_path / "family")
    before = contents(out)
    in_the_way = out / ".uniform-1-2.partial" / "mine"
    in_the_way.parent.mkdir()
    in_the_way.touch()
    for parent, slice_, words in (
        (miniature, "e2b", "already exists and has all of these slices"),
        (miniature, {"name": "e2b", "widths": "1/2"}, "already exists and holds something else"),
        (miniature, "1/2", "in the way"),
        (pico, "1/2", "its slices are of another parent"),
    ):
        with pytest.raises(InputError, match=words):
            add_to_family(plans_of(parent, slice_), out)
    shutil.rmtree(in_the_way.parent)
    assert contents(out) == before
    (out / "notes.txt").write_text("mine")  # so it is not a family alone
    done = cli("slice", miniature, "--slice", "1/2", "--out", out)
    assert done.code == 2 and "notes.txt" in done.err and done.err.count("\n") == 1
    assert {path.name for path in out.iterdir()} == {"e2b", "uniform-1-4", "notes.txt"}


@pytest.mark.parametrize("how", ["one byte", "cut short"])
def test_a_damaged_piece_is_written_anew_and_not_linked(
    miniature: Path, tmp_path: Path, cli: Cli, how: str
) -> None:
    out = write_family(plans_of(miniature, "e2b", "e4b"), tmp_path / "family")
    shared = [
        path for path in sorted((out / "e2b").glob("*.safetensors")) if path.stat().st_nlink > 1
    ]
    victim, stat = shared[3], shared[3].stat()
    victim.chmod(0o644)
    if how == "one byte":
        with victim.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x5a")
    else:
        os.truncate(victim, stat.st_size - 1)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    if how == "cut short":  # the member it is in is no checkpoint any more
        with pytest.raises(InputError, match="truncated"):
            add_to_family(plans_of(miniature, "e1.96b-layer"), out)
        return
    (added,) = add_to_family(plans_of(miniature, "e1.96b-layer"), out)
    assert verify_checkpoint(out / added, open_parent(miniature)).ok
    assert not verify_checkpoint(out / "e2b", open_parent(miniature)).ok


def test_another_parents_bytes_are_noticed(tmp_path: Path, miniature: Path) -> None:
    """A byte changed under the old size and time: the family is another parent's."""
    parent = tmp_path / "parent"
    shutil.copytree(miniature, parent)
    out = write_family(plans_of(parent, "e2b", "1/2"), tmp_path / "family")
    (weights,) = parent.glob("*.safetensors")
    stat = weights.stat()
    with weights.open("r+b") as file:
        file.seek(stat.st_size // 2 + 4097)
        file.write(b"\x5a\x5a")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(InputError, match="another parent"):
        add_to_family(plans_of(parent, "1/4"), out)


def test_verify_names_the_member_and_the_tensor(miniature: Path, tmp_path: Path, cli: Cli) -> None:
    out = write_family(plans_of(miniature, *SOME), tmp_path / "family")
    shard = out / "e2b" / "model-00003-of-00063.safetensors"
    assert shard.stat().st_nlink > 1
    shard.chmod(0o644)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    with shard.open("r+b") as file:  # in place: every member that shares the file has it
        file.write(data)
    for arguments in (["--parent", miniature], []):
        done = cli("verify", "family", *arguments, "--json")
        problems = json.loads(done.out)["problems"]
        assert done.code == 1
        assert len(problems) == shard.stat().st_nlink
        assert any(problem.startswith("e2b: tensor model.") for problem in problems), problems


def test_the_same_inputs_give_the_same_bytes(pico_full: Path, tmp_path: Path) -> None:
    plans = plans_of(pico_full, "1/2", "1/4", "full")
    one = write_family(plans, tmp_path / "one", threads=1)
    four = write_family(plans, tmp_path / "four", threads=4)
    assert contents(one) == contents(four)


def test_pieces_are_no_larger_than_asked(miniature: Path) -> None:
    members = family_members(plans_of(miniature, "e2b", "e4b"), 50_000)
    for piece in distinct_pieces(members):
        assert piece.nbytes <= 50_000 or len(piece.tensors) == 1


def test_without_hard_links_members_get_copies(
    pico_full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filesystems without links (FAT, some network ones) are not at hand."""

    def no_links(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    with pytest.warns(UserWarning, match=r"no hard links.*kB instead of"):
        out = write_family(plans_of(pico_full, "1/2", "1/4"), tmp_path / "family")
    assert {path.stat().st_nlink for path in out.rglob("*.safetensors")} == {1}
    assert verify_checkpoint(out, open_parent(str(pico_full))).ok


def test_slices_with_the_same_folder_name(pico: Path) -> None:
    parent = open_parent(str(pico))
    slices = (Slice("Half", (32,) * 10), Slice("half", (16,) * 10))
    with pytest.raises(InputError, match="same folder name"):
        family_members([make_plan(parent, slice_) for slice_ in slices], LARGE)


def test_a_hostile_name_stays_inside(pico: Path, tmp_path: Path) -> None:
    parent = open_parent(str(pico))
    slices = (Slice("../../escape", (32,) * 10), Slice("..", (16,) * 10))
    out = tmp_path / "deep" / "family"
    write_family([make_plan(parent, slice_) for slice_ in slices], out)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert len(list(out.iterdir())) == 2 and verify_checkpoint(out, parent).ok


@pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")
@pytest.mark.slow
def test_kills_leave_nothing_or_the_whole_family(pico_full: Path) -> None:
    from tests.end_to_end.test_unbreakable import kill_loop

    seen = kill_loop("family", pico_full, 60, 7)
    assert seen["kills"] >= 60 and seen["finished"] > 3


@pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")
@pytest.mark.slow
def test_kills_while_a_slice_is_added(pico_full: Path) -> None:
    from tests.end_to_end.test_unbreakable import kill_loop

    assert kill_loop("added", pico_full, 10**9, 15)["kills"] > 3

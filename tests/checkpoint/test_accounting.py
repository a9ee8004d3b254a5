"""verify accounts for every file of a checkpoint, and for every word of its manifest."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from matformer_lab.checkpoint.family import write_family
from matformer_lab.checkpoint.manifest import MANIFEST_FILE, Manifest
from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan

SKIPPING = {"name": "short", "widths": "1/2", "skip": [7, 8]}


def resolved(parent: Parent, *slices: object) -> list[Any]:
    from matformer_lab.slicing.notation.catalog import resolve_slices

    return [make_plan(parent, slice_) for slice_ in resolve_slices(slices, parent)]


@pytest.fixture(scope="module")
def parent(pico: Path) -> Parent:
    return open_parent(str(pico))


@pytest.fixture(scope="module")
def good(parent: Parent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (plan,) = resolved(parent, SKIPPING)
    return write_checkpoint(
        plan, tmp_path_factory.mktemp("verify") / "short", max_shard_size=60_000
    )


@pytest.fixture
def child(good: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(good, tmp_path / "child"))


def problems(child: Path, parent: Parent | None = None) -> str:
    """What verify says, whether as findings or as an error."""
    try:
        return "\n".join(verify_checkpoint(child, parent).problems)
    except InputError as error:
        return str(error)


def test_as_written_it_is_right(child: Path, parent: Parent) -> None:
    assert (child / "model.safetensors.index.json").exists()
    assert not problems(child) and not problems(child, parent)


# --- files --------------------------------------------------------------------------------------


def new(name: str) -> Callable[[Path], object]:
    return lambda child: (child / name).write_text("x")


def folder(name: str) -> Callable[[Path], None]:
    return lambda child: (child / name).mkdir(parents=True)


STRANGERS: dict[str, Callable[[Path], object]] = {
    **{
        name: new(name)
        for name in (
            *("pytorch_model.bin", "modeling.py", "chat_template.json", "adapter_config.json"),
            *(".hidden", "more.safetensors", "README.txt", "model.safetensors.index.json.bak"),
        )
    },
    "onnx": folder("onnx"),
    ".git-not": folder(".git-not"),
    "link": lambda child: (child / "link").symlink_to(child / "config.json"),
    "dangling": lambda child: (child / "dangling").symlink_to("nowhere"),
    "pipe": lambda child: os.mkfifo(child / "pipe"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_nothing_accounts_for_is_named(name: str, child: Path, parent: Parent) -> None:
    STRANGERS[name](child)
    for against in (None, parent):
        said = problems(child, against)
        assert said.startswith(f"{name}: ") and said.count("\n") == 0, said


def test_what_is_free(child: Path, parent: Parent) -> None:
    (child / "README.md").write_text("my own words")
    (child / ".gitattributes").write_text("* lfs")
    for free in (".git", ".cache"):
        (child / free / "huggingface").mkdir(parents=True)
    assert not problems(child) and not problems(child, parent)
    (child / "README.md").unlink()
    assert not problems(child) and not problems(child, parent)
    (child / "README.md").mkdir()
    assert "README.md: does not belong to the slice" in problems(child)


KNOWN = ("config.json", "model.safetensors.index.json", "tokenizer.json", "LICENSE")


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("harm", ["byte", "gone", "folder", "pipe", "link out"])
def test_a_known_file_that_is_not_right(
    name: str, harm: str, child: Path, parent: Parent, tmp_path: Path
) -> None:
    data = (child / name).read_bytes()
    (child / name).unlink()
    if harm == "byte":
        (child / name).write_bytes(data + b"\n")
    elif harm == "folder":
        (child / name).mkdir()
    elif harm == "pipe":
        os.mkfifo(child / name)
    elif harm == "link out":
        (tmp_path / "elsewhere").write_bytes(data)
        (child / name).symlink_to(tmp_path / "elsewhere")
    for against in (None, parent):
        assert name in problems(child, against), harm


def test_the_parents_side_files_are_compared(pico: Path, child: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(pico, tmp_path / "other"))
    (other / "tokenizer.json").write_text('"another tokenizer"')
    assert problems(child, open_parent(other)) == "tokenizer.json: differs from the parent's"
    (other / "tokenizer.json").unlink()
    assert problems(child, open_parent(other)) == "tokenizer.json: is not a file of the parent's"
    shutil.copy(child / "tokenizer.json", other)
    (other / "merges.txt").write_text("a b")
    said = problems(child, open_parent(other))
    assert said.splitlines()[0] == "merges.txt: missing", said


def test_a_folder_without_a_manifest_is_compared_too(child: Path, parent: Parent) -> None:
    (child / MANIFEST_FILE).unlink()
    wanted = resolve_slice("1/2", parent)
    assert not problems(child, parent)  # its weights say which layers it skips
    (plan,) = resolved(parent, SKIPPING)
    assert verify_checkpoint(child, parent, plan.slice).ok
    assert not verify_checkpoint(child, parent, wanted).ok
    (child / "tokenizer.json").write_text("x")
    (child / "modeling.py").write_text("x")
    assert verify_checkpoint(child, parent, plan.slice).problems == (
        "tokenizer.json: differs from the parent's",
        "modeling.py: does not belong to the slice",
    )


def test_a_family_accounts_for_its_folder_too(parent: Parent, tmp_path: Path) -> None:
    out = write_family(resolved(parent, "1/2", "1/4"), tmp_path / "family")
    (out / "README.md").write_text("mine")
    assert not problems(out) and not problems(out, parent)
    (out / "notes.txt").write_text("mine")
    (out / "uniform-1-2" / "modeling.py").write_text("mine")
    (out / "more").mkdir()
    for against in (None, parent):
        said = problems(out, against).splitlines()
        assert said[0] == "notes.txt: does not belong to the family"
        assert said[1].startswith("more: ")
        assert said[2:] == ["uniform-1-2: modeling.py: does not belong to the slice"]


# --- the manifest -------------------------------------------------------------------------------


def at(*keys: object, value: object) -> Callable[[dict[str, Any]], None]:
    def edit(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        if value is None:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value

    return edit


def added(part: str, key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return at(part, key, value=value)


TENSOR = "model.layers.0.mlp.up_proj.weight"
HEX = "0" * 64
EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    "no files": at("files", value={}),
    "no config among the files": at("files", "config.json", value=None),
    "no tokenizer among the files": at("files", "tokenizer.json", value=None),
    "no index among the files": at("files", "model.safetensors.index.json", value=None),
    "a file's digest": at("files", "LICENSE", value=HEX),
    "half a digest": at("files", "LICENSE", value=HEX[:32]),
    "a file elsewhere": added("files", "../x", HEX),
    "an absolute file": added("files", "/etc/passwd", HEX),
    "a file that is not there": added("files", "merges.txt", HEX),
    "weights among the files": added("files", "model-00001-of-00002.safetensors", HEX),
    "itself among the files": added("files", MANIFEST_FILE, HEX),
    "no tensors": at("tensors", value={}),
    "a tensor less": at("tensors", TENSOR, value=None),
    "a tensor more": added("tensors", "model.ghost", HEX),
    "a tensor's digest": at("tensors", TENSOR, value=HEX),
    "no digest at all": at("tensors", TENSOR, value="x"),
    "a forged fingerprint": at("parent", "fingerprint", value="f" * 64),
    "half a fingerprint": at("parent", "fingerprint", value="abc"),
    "a revision that is none": at("parent", "revision", value=""),
    "another parent's name": at("parent", "name", value="another"),
    "a negative layer": at("slice", "skipped", value=[-1, 7]),
    "a layer twice": at("slice", "skipped", value=[7, 7]),
    "layers out of order": at("slice", "skipped", value=[8, 7]),
    "a layer that is too high": at("slice", "skipped", value=[7, 12]),
    "other layers": at("slice", "skipped", value=[6, 7]),
    "half a layer": at("slice", "skipped", value=[7.0, 8.0]),
    "a layer that is true": at("slice", "skipped", value=[True, 8]),
    "a width of 0": at("slice", "widths", value=[0] * 8),
    "a negative width": at("slice", "widths", value=[-32] * 8),
    "other widths": at("slice", "widths", value=[16] * 8),
    "a huge width": at("slice", "widths", value=[2**31] * 8),
    "no widths": at("slice", "widths", value=[]),
    "a width less": at("slice", "widths", value=[32] * 7),
    "no name": at("slice", "name", value=""),
    "another name": at("slice", "name", value="tall"),
    "towers": at("text_only", value=False),
    "text": at("text_only", value="yes"),
    "another digest": at("digest", value="sha256"),
    "a key more": at("more", value=1),
    "a key less": at("parent", value=None),
    "another version": at("matformer_lab", value="99"),
    "another seal": at("seal", value=HEX),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_manifest_is_not_believed(edit: str, child: Path, parent: Parent) -> None:
    manifest = json.loads((child / MANIFEST_FILE).read_text())
    EDITS[edit](manifest)
    (child / MANIFEST_FILE).write_text(json.dumps(manifest))
    for against in (None, parent):
        assert problems(child, against), edit


UNPROVABLE = ("another seal", "another parent's name", "another name", "another version")
ONLY_WITH_THE_PARENT = ("a forged fingerprint", "other layers")


@pytest.mark.parametrize("edit", [e for e in EDITS if e not in UNPROVABLE])
def test_a_manifest_that_was_sealed_anew(edit: str, child: Path, parent: Parent) -> None:
    """Who forges a manifest can seal it too; what it says is then checked against the rest."""
    content = json.loads((child / MANIFEST_FILE).read_text())
    EDITS[edit](content)
    try:
        sealed = Manifest.model_validate(content).sealed().model_dump_json()
    except ValueError:
        sealed = json.dumps(content)
    (child / MANIFEST_FILE).write_text(sealed)
    assert problems(child, parent)
    if edit not in ONLY_WITH_THE_PARENT:
        assert problems(child)


def test_a_manifest_from_before_seals_is_read(child: Path, parent: Parent) -> None:
    content = json.loads((child / MANIFEST_FILE).read_text())
    del content["seal"]
    content["parent"]["fingerprint"] = HEX  # of samples, at that time
    (child / MANIFEST_FILE).write_text(json.dumps(content))
    assert not problems(child) and not problems(child, parent)

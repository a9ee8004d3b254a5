"""Published slices are E4B's: a parent that is one of them already is not cut a second time."""

import json
from pathlib import Path

import pytest

from matformer_lab.checkpoint.slices import write_slices
from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent, build_parent
from matformer_lab.slicing.builtin_slices import builtin_slices, e4b_text_parent
from matformer_lab.slicing.e4b import slice_like
from matformer_lab.slicing.notation.catalog import (
    published_specs,
    resolve_slice,
    resolve_slices,
)
from matformer_lab.slicing.plan import make_plan


def child(parent: Parent, slice_: str) -> Parent:
    """A slice as a parent, without weights."""
    plan = make_plan(parent, resolve_slice(slice_, parent))
    from matformer_lab.parent.weights.headers import TensorInfo

    tensors = {t.name: TensorInfo(t.dtype, t.shape, "m.safetensors", 0) for t in plan.tensors}
    return build_parent(ref="tuned", name="tuned", config=plan.config, tensors=tensors, folder=None)


@pytest.mark.parametrize("of", ["e4b", "tiny"])
@pytest.mark.parametrize("name", [spec.name for spec in published_specs()])
def test_every_published_slice_is_known_again(name: str, of: str) -> None:
    parent = e4b_text_parent() if of == "e4b" else open_parent("tiny")
    cut = child(parent, name)
    assert slice_like(cut.text, published_specs()) == name
    if name == "e4b":
        assert resolve_slice("e2b", cut).skipped == (20, 21, 22, 23, 24)
        return
    for ref in ("e2b", "e4b", "published", "Config for official E2B Model"):
        with pytest.raises(InputError, match=f"tuned is a slice already, apparently {name}"):
            resolve_slices([ref], cut)
    assert resolve_slice("full", cut).widths == cut.text.intermediate_size
    assert resolve_slice("1/2", cut).skipped == ()


def test_a_half_of_e4b_is_not_e4b() -> None:
    with pytest.raises(InputError, match="tuned has 35 layers too, but FFNs of 8192, not 16384"):
        resolve_slice("e4b", child(e4b_text_parent(), "1/2"))


def test_a_written_slice_says_what_it_is(tmp_path: Path) -> None:
    """Its widths alone are those of a smaller E4B."""
    write_slices("tiny", "1/2", tmp_path / "half")
    with pytest.raises(InputError, match="half is a slice already: uniform-1-2"):
        resolve_slice("e2b", open_parent(tmp_path / "half"))
    write_slices("tiny", "e4b", tmp_path / "whole")
    assert resolve_slice("e2b", open_parent(tmp_path / "whole")).skipped


def test_another_structure_is_described(pico: Path) -> None:
    with pytest.raises(InputError, match=r"pico.* has 10 layers, 5 sharing K/V"):
        resolve_slice("e2b", open_parent(pico))


def notebook(folder: Path, out: Path) -> Path:
    """E2B as Google's notebook leaves it: 35 layer_types, int 0, no manifest."""
    write_slices(folder, "e2b", out)
    config = json.loads((out / "config.json").read_text())
    text = config.get("text_config", config)
    text["layer_types"] = open_parent(folder).text.layer_types
    text["activation_sparsity_pattern"] = [v or 0 for v in text["activation_sparsity_pattern"]]
    (out / "config.json").write_text(json.dumps(config))
    (out / "matformer_lab.json").unlink()
    (out / "README.md").unlink()
    return out


@pytest.mark.parametrize("form", ["tiny", "miniature"])
def test_the_notebooks_output(form: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    parent = form if form == "tiny" else str(request.getfixturevalue(form))
    out = notebook(Path(open_parent(parent).local), tmp_path / "old")
    found = verify_checkpoint(out, parent)
    assert found.tensors > 700
    assert all(problem.startswith("config.json: ") for problem in found.problems)
    assert "written by Google's notebook" in found.problems[0]
    assert "--slice full --out FIXED" in found.problems[0]
    assert len(found.problems) == 2
    assert found.problems[1].endswith("layer_types has 35 values, expected 30")
    with pytest.warns(UserWarning, match="Google's notebook"):
        write_slices(out, "full", tmp_path / "fixed")
    again = verify_checkpoint(tmp_path / "fixed", parent, "e2b")
    # The manifest says what it was cut from, which is the notebook's folder; all else is e2b's.
    assert again.tensors > 700 and len(again.problems) == 2
    assert all(problem.startswith("matformer_lab.json: ") for problem in again.problems)
    with pytest.warns(UserWarning, match="notebook"):
        assert slice_like(open_parent(out).text, published_specs()) == "e2b"


def test_layers_that_the_notebook_may_have_skipped_are_not_guessed(tmp_path: Path) -> None:
    out = notebook(Path(open_parent("tiny").local), tmp_path / "old")
    config = json.loads((out / "config.json").read_text())
    config["num_kv_shared_layers"] = 11
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="35 values for 30 layers; Google's notebook"):
        open_parent(out)


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("E3B", r"the nearest are e2.98b-layer \(2.98B\), e2.98b-block \(2.98B\)"),
        ("3.4b", r"the nearest are e3.39b-layer \(3.39B\)"),
        ("e2.54", r"the nearest are e2.54b-layer \(2.54B\)"),
        ("published-slices", "did you mean 'published'"),
    ],
)
def test_sizes_that_are_no_names(ref: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        resolve_slice(ref, e4b_text_parent())


def test_upper_case_is_the_same_name() -> None:
    assert resolve_slice("E2B", e4b_text_parent()).name == "e2b"
    assert len(builtin_slices()) == 16

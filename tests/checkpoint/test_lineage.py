"""Slices that were tuned, saved again, or sliced again: said for what they are."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from matformer_lab.checkpoint.manifest import read_manifest
from matformer_lab.checkpoint.slices import write_slices
from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan
from tests.support.command import CommandResult
from tests.support.saved import FILE, saved_by_transformers_5

Cli = Callable[..., CommandResult]
Q_PROJ = "model.language_model.layers.3.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def parent(miniature: Path) -> Parent:
    return open_parent(miniature)


@pytest.fixture(scope="module")
def e2b(parent: Parent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slices(parent, "e2b", tmp_path_factory.mktemp("lineage") / "e2b").folder


def test_a_slice_of_a_slice_is_a_slice_of_the_first(
    parent: Parent, e2b: Path, miniature: Path, tmp_path: Path, cli: Cli
) -> None:
    """e2b then 1/2 is e2b's skips at a quarter; a third step is one of all before it."""
    half = write_slices(e2b, "1/2", tmp_path / "half").folder
    skip = [{"name": "less", "widths": "1/2", "skip": [21]}]
    less = write_slices(half, skip, tmp_path / "less").folder
    for folder, of in ((half, e2b), (half, parent), (less, half), (less, e2b), (less, parent)):
        assert verify_checkpoint(folder, of).problems == ()
    manifest = read_manifest(less)
    assert manifest and [link.parent.name for link in manifest.ancestors] == ["e2b", miniature.name]
    assert manifest.ancestors[1].slice.skipped == (20, 21, 22, 23, 24, 26)
    assert set(manifest.ancestors[1].slice.widths) == {8}
    assert cli("verify", less, "--parent", miniature).code == 0


def test_mixed_then_uniform_differs_only_in_how_widths_are_written(
    miniature: Path, tmp_path: Path
) -> None:
    import json

    first = Path(shutil.copytree(miniature, tmp_path / "first"))
    config = json.loads((first / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 64
    (first / "config.json").write_text(json.dumps(config))
    mixed = [{"name": "mixed", "widths": [64, *[32] * 34]}]
    middle = write_slices(first, mixed, tmp_path / "middle").folder
    last = write_slices(middle, [{"name": "s", "widths": 16}], tmp_path / "last").folder
    assert verify_checkpoint(last, first).problems == ()


def test_a_slice_of_a_filled_one(parent: Parent, miniature: Path, tmp_path: Path) -> None:
    tuned = saved_by_transformers_5(miniature, tmp_path / "tuned")
    copies = write_slices(tuned, "e2b", tmp_path / "copies").folder
    others = write_slices(tuned, "e2b", tmp_path / "others", kv_from=parent).folder
    for folder in (copies, others):
        half = write_slices(folder, "1/2", tmp_path / f"{folder.name}-half").folder
        assert verify_checkpoint(half, folder).problems == ()
        assert verify_checkpoint(half, tuned).problems == ()
    assert verify_checkpoint(half, tuned, kv_from=parent).problems == ()


def test_a_strange_parent_does_not_fit(e2b: Path, pico_full: Path) -> None:
    with pytest.raises(InputError, match="does not fit the parent"):
        verify_checkpoint(e2b, pico_full)


def test_saved_again(e2b: Path, parent: Parent, miniature: Path, tmp_path: Path, cli: Cli) -> None:
    again = saved_by_transformers_5(e2b, tmp_path / "again")
    result = verify_checkpoint(again, parent)
    assert (result.ok, result.kind, result.differing) == (False, "saved again", ())
    (sentence,) = result.problems
    assert sentence.startswith("saved again: every tensor is that of slice e2b, bit for bit")
    assert "30 K/V tensors that nothing reads are left out" in sentence
    done = cli("verify", again, "--parent", miniature)
    assert done.code == 1 and "not ok: saved again, not the slice byte for byte" in done.out
    fixed = write_slices(again, "full", tmp_path / "fixed").folder
    assert verify_checkpoint(fixed, parent, "e2b").kind == "saved again"


def test_tuned(e2b: Path, parent: Parent, tmp_path: Path) -> None:
    """With an adapter on every q_proj, which is merged."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if "q_proj" in name:
                tensors[name] += 0.5

    result = verify_checkpoint(saved_by_transformers_5(e2b, tmp_path / "tuned", edit), parent)
    assert (result.kind, len(result.differing)) == ("tuned", 30)
    (sentence,) = result.problems
    assert sentence.startswith("tuned: 30 tensors differ (such as model.language_model.layers.0.")
    assert "shapes and config are those of slice e2b" in sentence


def test_tuned_in_all_its_weights(e2b: Path, parent: Parent, tmp_path: Path) -> None:
    """Nothing is left to tell the layers by, but it has e2b's shape; stored in another dtype."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensors[name] = (tensor * 1.01).to(torch.bfloat16)

    tuned = saved_by_transformers_5(e2b, tmp_path / "tuned", edit)
    (sentence,) = verify_checkpoint(tuned, parent).problems
    assert "stored as BF16" in sentence and "those of slice e2b" in sentence


def test_tuned_in_all_its_weights_and_of_no_published_shape(parent: Parent, tmp_path: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensors[name] = tensor + 1

    skip = [{"name": "mine", "widths": "1/2", "skip": [3, 30]}]
    mine = write_slices(parent, skip, tmp_path / "mine").folder
    tuned = saved_by_transformers_5(mine, tmp_path / "tuned", edit)
    with pytest.raises(InputError, match=r"which layers were skipped.*give `slice`"):
        verify_checkpoint(tuned, parent)
    (sentence,) = verify_checkpoint(tuned, parent, read_manifest(mine).to_slice()).problems  # type: ignore[union-attr]
    assert "those of slice mine" in sentence


def test_quantised(e2b: Path, parent: Parent, tmp_path: Path) -> None:
    """As bitsandbytes stores 4 bits: packed in a column of bytes, its statistics beside."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".mlp." in name]:
            packed = torch.zeros(tensors[name].numel() // 2, 1, dtype=torch.uint8)
            tensors[name] = packed
            tensors[f"{name}.absmax"] = torch.zeros(4)

    quantised = saved_by_transformers_5(e2b, tmp_path / "quantised", edit)
    result = verify_checkpoint(quantised, parent)
    assert (result.kind, len(result.problems)) == ("quantised", 1)
    assert "config is that of slice e2b; its tensors cannot be compared" in result.problems[0]
    with pytest.raises(InputError, match="slice the bf16 original, then quantise the slice"):
        write_slices(quantised, "1/2", tmp_path / "out")


def test_nan_in_a_tuned_weight_is_named(e2b: Path, parent: Parent, tmp_path: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[Q_PROJ][3, 3] = torch.nan

    _, line = verify_checkpoint(
        saved_by_transformers_5(e2b, tmp_path / "tuned", edit), parent
    ).problems
    assert line == f"tensor {Q_PROJ}: holds NaN or infinity"


def test_tuned_in_its_own_folder(e2b: Path, parent: Parent, tmp_path: Path) -> None:
    """The manifest stays beside what it does not describe any more."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[Q_PROJ] += 1

    folder = Path(shutil.copytree(e2b, tmp_path / "e2b"))
    shutil.copytree(
        saved_by_transformers_5(e2b, tmp_path / "new", edit), folder, dirs_exist_ok=True
    )
    assert verify_checkpoint(folder, parent).kind == "tuned"


@pytest.mark.parametrize("key", ["rms_norm_eps", "sliding_window", "num_kv_shared_layers"])
def test_another_model_is_not_a_tuned_one(
    key: str, e2b: Path, parent: Parent, tmp_path: Path
) -> None:
    import json

    again = saved_by_transformers_5(e2b, tmp_path / "again")
    config = json.loads((again / "config.json").read_text())
    config["text_config"][key] = 5
    (again / "config.json").write_text(json.dumps(config))
    result = verify_checkpoint(again, parent, "e2b")
    assert result.kind == "different"
    assert any(key in problem for problem in result.problems)


def test_damage_is_not_tuning(e2b: Path, parent: Parent, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(e2b, tmp_path / "e2b"))
    tensors = load_file(folder / FILE)
    tensors[Q_PROJ][0, 0] += 1
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    result = verify_checkpoint(folder, parent)
    assert result.kind == "different"
    assert result.problems == (f"tensor {Q_PROJ}: differs from the parent's, first at [0, 0]",)


def test_a_parent_with_fewer_layers_is_named(tmp_path: Path) -> None:
    """No slice that one could give would help."""
    tiny = open_parent("tiny")
    small = write_checkpoint(make_plan(tiny, resolve_slice("e2b", tiny)), tmp_path / "e2b")
    whole = write_checkpoint(make_plan(tiny, resolve_slice("full", tiny)), tmp_path / "full")
    (whole / "matformer_lab.json").unlink()
    with pytest.raises(
        InputError, match="has 35 layers, and e2b has 30: it is not a slice of that"
    ):
        verify_checkpoint(whole, open_parent(str(small)))

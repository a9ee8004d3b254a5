"""An LM head that is not the embeddings is carried and used everywhere; one that is, is dropped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3nForCausalLM

from matformer_lab.checkpoint.slices import write_slices
from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.slice_scoring import score_slices
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.runtimes import runtime_verdicts
from matformer_lab.slicing.sizes import sizes_of
from tests.support.separate_head import HEAD, with_head

EMBEDDINGS = 96 * 32


@pytest.mark.parametrize(
    ("form", "flags"),
    [
        ("pico", {"top": False}),
        ("pico", {}),
        ("pico", {"top": True}),
        ("pico_full", {"top": False}),
        ("pico_full", {"text": False}),
        ("pico_full", {}),
    ],
)
def test_it_is_carried_and_used(
    form: str, flags: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(form)
    parent = open_parent(with_head(source, tmp_path / "parent", flags))
    tied = open_parent(with_head(source, tmp_path / "tied", None))
    slice_ = resolve_slice("1/2", parent)
    plan, without = make_plan(parent, slice_), make_plan(tied, slice_)
    size, less = sizes_of(plan), sizes_of(without)
    assert size.text - less.text == size.effective - less.effective == EMBEDDINGS
    assert size.nbytes - less.nbytes == 2 * EMBEDDINGS
    assert size.accelerator_bytes - less.accelerator_bytes == 2 * EMBEDDINGS
    assert size.flops_per_token == less.flops_per_token
    verdicts = {one.runtime: one.verdict for one in runtime_verdicts(plan)}
    assert verdicts["mlx-lm"] == "refuses" and verdicts["llama.cpp"] != "ok"

    out = write_checkpoint(plan, tmp_path / "child")
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config.get("text_config", config)["tie_word_embeddings"] is False
    own = load_file(tmp_path / "parent" / "model.safetensors")[HEAD]
    assert torch.equal(load_file(out / "model.safetensors")[HEAD], own)
    assert verify_checkpoint(out, parent).ok and verify_checkpoint(out).ok
    again = make_plan(open_parent(out), resolve_slice("full", open_parent(out)))
    assert again.config == plan.config and sizes_of(again) == size


@pytest.mark.parametrize("form", ["pico", "pico_full"])
def test_scores_are_those_of_transformers(
    form: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The live slice, alone and loaded for this slice only, and the prefix scorer."""
    source = request.getfixturevalue(form)
    parent = open_parent(with_head(source, tmp_path / "parent", {"top": False}))
    slice_ = resolve_slice("1/2", parent)
    out = write_checkpoint(make_plan(parent, slice_, text_only=True), tmp_path / "child")
    extracted = Gemma3nForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert not torch.equal(extracted.lm_head.weight, extracted.model.embed_tokens.weight)
    extracted.train(False)
    ids = torch.randint(3, 96, (1, 20), generator=torch.Generator().manual_seed(1))
    asked = Request.of(ids[0, :15].tolist(), ids[0, 15:].tolist(), 256)
    with torch.no_grad():
        logits = extracted(ids).logits
        wanted = logits.log_softmax(-1)[0, torch.arange(14, 19), ids[0, 15:]].sum().item()
        for slices in (None, [slice_]):
            elastic = ElasticParent.load(parent, slices=slices, dtype=torch.float32)
            live = elastic.live(slice_)
            assert torch.equal(live(ids).logits, logits)
    (answer,) = score_slices({"half": live}, [asked])["half"]
    assert answer.logprob == pytest.approx(wanted, rel=1e-4)
    tied = open_parent(with_head(source, tmp_path / "tied", None))
    other = ElasticParent.load(tied, dtype=torch.float32).live(slice_)
    assert score_slices({"half": other}, [asked])["half"][0].logprob != pytest.approx(wanted, 1e-2)


def test_a_family_shares_it(pico_full: Path, tmp_path: Path) -> None:
    folder = with_head(pico_full, tmp_path / "parent", {"top": False})
    own = load_file(folder / "model.safetensors")[HEAD]
    write_slices(folder, ["1/2", "1/4"], tmp_path / "family")
    write_slices(folder, ["1/8"], tmp_path / "family")
    assert verify_checkpoint(tmp_path / "family", folder).ok
    files = {
        path.stat().st_ino
        for path in tmp_path.glob("family/*/*.safetensors")
        if HEAD in (tensors := load_file(path)) and torch.equal(tensors[HEAD], own)
    }
    assert len(files) == 1


def test_one_that_repeats_the_embeddings_is_left_out(pico_full: Path, tmp_path: Path) -> None:
    parent = open_parent(with_head(pico_full, tmp_path / "parent", {}, equal=True))
    tied = open_parent(with_head(pico_full, tmp_path / "tied", None))
    plan = make_plan(parent, resolve_slice("1/2", parent))
    assert HEAD not in plan.text_tensors() and "tie_word_embeddings" not in plan.config
    assert sizes_of(plan) == sizes_of(make_plan(tied, plan.slice))


@pytest.mark.parametrize("flags", [{"top": False}, {"text": False}])
def test_a_head_that_the_config_promises_must_be_there(
    flags: dict[str, Any], pico_full: Path, tmp_path: Path
) -> None:
    folder = with_head(pico_full, tmp_path / "parent", flags)
    tensors = load_file(folder / "model.safetensors")
    del tensors[HEAD]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"tie_word_embeddings: false, but there is no lm_head"):
        open_parent(folder)


def test_a_head_of_another_size_is_named(pico: Path, tmp_path: Path) -> None:
    folder = with_head(pico, tmp_path / "parent", {"top": False})
    tensors = load_file(folder / "model.safetensors")
    tensors[HEAD] = tensors[HEAD][:-1].clone()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"lm_head.weight has shape \[95, 32\]"):
        open_parent(folder)

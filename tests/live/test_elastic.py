"""Live slices: logits of the extracted checkpoint bit for bit, no memory of their own."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Gemma3nForCausalLM

from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slice, resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.slice import Slice


def tokens(seed: int = 0, length: int = 24) -> torch.Tensor:
    """Longer than the pico sliding window of 8."""
    return torch.randint(1, 96, (2, length), generator=torch.Generator().manual_seed(seed))


def generated(model: Gemma3nForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    # transformers types `generate` for a protocol that its own models do not meet.
    made = model.generate(ids, max_new_tokens=12, do_sample=False)  # type: ignore[misc]
    assert isinstance(made, torch.Tensor)
    return made


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_live_logits_equal_the_extracted_checkpoint(pico_full: Path, data: st.DataObject) -> None:
    parent = open_parent(str(pico_full))
    skipped = data.draw(st.sets(st.sampled_from([0, 1, 2, 5, 6, 7, 8]), max_size=3))
    kept = [layer for layer in range(10) if layer not in skipped]
    widths = tuple(data.draw(st.integers(1, 64)) for _ in kept)
    slice_ = Slice("random", widths, tuple(sorted(skipped)))
    live = ElasticParent.load(parent, dtype=torch.float32).live(slice_)
    with TemporaryDirectory() as scratch:
        plan = make_plan(parent, slice_, text_only=True)
        out = write_checkpoint(plan, Path(scratch) / "child")
        extracted = Gemma3nForCausalLM.from_pretrained(out, dtype=torch.float32)
        extracted.train(False)
        ids = tokens()
        with torch.no_grad():
            assert torch.equal(live(ids).logits, extracted(ids).logits)
            made = generated(live, ids)
            assert torch.equal(made, generated(extracted, ids))
    assert made.shape[1] > ids.shape[1]


@pytest.mark.parametrize("name", ["e2b", "e2.69b-layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_e4b_structure(miniature: Path, tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    parent = open_parent(str(miniature))
    slice_ = resolve_slice(name, parent)
    out = write_checkpoint(make_plan(parent, slice_, text_only=True), tmp_path / "child")
    live = ElasticParent.load(parent, dtype=dtype).live(slice_)
    extracted = Gemma3nForCausalLM.from_pretrained(out, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(live(tokens()).logits, extracted(tokens()).logits)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_slices_need_is_enough_and_no_more_is_loaded(
    pico_full: Path, data: st.DataObject
) -> None:
    parent = open_parent(str(pico_full))
    slices = []
    for number in range(data.draw(st.integers(1, 3))):
        skipped = data.draw(st.sets(st.sampled_from([0, 1, 2, 5, 6, 7, 8]), max_size=3))
        widths = tuple(data.draw(st.integers(1, 64)) for _ in range(10 - len(skipped)))
        slices.append(Slice(f"slice-{number}", widths, tuple(sorted(skipped))))
    whole = ElasticParent.load(parent, dtype=torch.float64)
    some = ElasticParent.load(parent, slices=slices, dtype=torch.float64)

    with torch.no_grad():
        for slice_ in slices:
            expected = whole.live(slice_)(tokens()).logits
            torch.testing.assert_close(some.live(slice_)(tokens()).logits, expected)

    widest = {
        layer: max(s.widths[s.kept(10).index(layer)] for s in slices if layer in s.kept(10))
        for layer in range(10)
        if any(layer in s.kept(10) for s in slices)
    }
    for layer in range(10):
        names = {name for name in some.weights if name.startswith(f"layers.{layer}.")}
        if layer not in widest:
            assert not names
            continue
        assert names == {name for name in whole.weights if name.startswith(f"layers.{layer}.")}
        assert some.weights[f"layers.{layer}.mlp.up_proj.weight"].shape[0] == widest[layer]
        assert some.weights[f"layers.{layer}.mlp.down_proj.weight"].shape[1] == widest[layer]


@pytest.mark.parametrize(
    ("other", "message"),
    [(Slice("wider", (9,) * 10), "was loaded, not"), (Slice("full", (64,) * 10), "was loaded")],
)
def test_a_slice_that_was_not_loaded_is_refused(
    pico_full: Path, other: Slice, message: str
) -> None:
    parent = open_parent(str(pico_full))
    elastic = ElasticParent.load(parent, slices=[Slice("narrow", (8,) * 10)])
    with pytest.raises(ValueError, match=message):
        elastic.live(other)
    deeper = ElasticParent.load(parent, slices=[Slice("short", (64,) * 9, (0,))])
    with pytest.raises(ValueError, match="was not loaded"):
        deeper.live(other)


def test_per_layer_inputs_matter_in_these_parents(miniature: Path) -> None:
    """A guard on the fixtures: with dead per-layer inputs the tests above would miss their bugs."""
    live = ElasticParent.load(open_parent(str(miniature))).live(
        resolve_slice("e4b", open_parent(str(miniature)))
    )
    with torch.no_grad():
        before = live(tokens()).logits
        live.model.embed_tokens_per_layer.scale.mul_(-1)
        assert not torch.allclose(before, live(tokens()).logits)


def test_slices_share_the_parents_memory(miniature: Path) -> None:
    parent = open_parent(str(miniature))
    elastic = ElasticParent.load(parent)
    storages = {tensor.untyped_storage().data_ptr() for tensor in elastic.weights.values()}
    for name in ("e4b", "e2.98b-block", "1/8"):
        live = elastic.live(resolve_slice(name, parent))
        for parameter_name, parameter in live.named_parameters():
            assert parameter.untyped_storage().data_ptr() in storages, parameter_name
        assert not any(tensor.is_meta for tensor in live.buffers())
    first, second = (elastic.live(resolve_slice(n, parent)) for n in ("e4b", "1/2"))
    assert (
        first.model.layers[3].mlp.down_proj.weight.data_ptr()
        == second.model.layers[3].mlp.down_proj.weight.data_ptr()
    )
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_slices_made_together_compute_what_each_computes_alone(pico: Path) -> None:
    parent = open_parent(pico)
    elastic = ElasticParent.load(parent, dtype=torch.float32)
    names = ["1/2", "full", {"name": "mixed", "widths": {"0-4": 64, "5-9": 16}},
             {"name": "skip", "widths": 48, "skip": [7]},
             {"name": "skip too", "widths": {"0-6": 8, "8-9": 64}, "skip": [7]}]  # fmt: skip
    slices = {slice_.name: slice_ for slice_ in resolve_slices(names, parent)}
    together = elastic.live_together(slices)
    ids = tokens()
    for name, slice_ in slices.items():
        with torch.inference_mode():
            alone = elastic.live(slice_)(ids).logits
            assert torch.equal(together[name](ids).logits, alone)
        assert together[name].config.intermediate_size == list(slice_.widths)
    handle = together["uniform-1-2"].register_forward_hook(
        lambda *_: pytest.fail("another slice's hook")
    )
    together["mixed"](ids)
    handle.remove()

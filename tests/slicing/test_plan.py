"""Golden numbers, the child's config, and the selection of every tensor, as properties."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matformer_lab.evaluation.tokenizer import load_tokenizer
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent, build_parent
from matformer_lab.parent.weights.headers import TensorInfo, encode_header
from matformer_lab.slicing.builtin_slices import builtin_slices, e4b_text_parent
from matformer_lab.slicing.notation.catalog import resolve_slice, resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.runtimes import runtime_verdicts
from matformer_lab.slicing.sizes import sizes_of
from matformer_lab.slicing.slice import Slice

PER_LAYER = 11_821_648  # non-FFN parameters of one E4B layer
HIDDEN = 2048


def e4b_with_towers(shared: Path) -> Parent:
    """E4B as its full tensor inventory describes it."""
    reference = shared / "reference"
    shapes = json.loads((reference / "gemma-3n-E4B.tensors.json").read_text())
    config = json.loads((reference / "gemma-3n-E4B.config.json").read_text())
    tensors = {name: TensorInfo("BF16", tuple(s), "m.safetensors", 0) for name, s in shapes.items()}
    return build_parent(ref="e4b", name="e4b", config=config, tensors=tensors, folder=None)


def test_golden_numbers_of_e4b_and_e2b() -> None:
    counts = {entry.name: entry for entry in builtin_slices()}
    assert counts["e4b"].effective == 3_980_491_248
    assert counts["e4b"].text == 6_866_696_688
    assert counts["e2b"].effective == 1_905_495_648
    assert counts["e2b"].text == 4_456_156_768


@pytest.mark.parametrize("name", [entry.name for entry in builtin_slices()])
def test_golden_numbers_of_all_published_slices(name: str) -> None:
    """Against the closed formula of the paper's table: everything but FFNs, plus 3 * hidden * w."""
    parent = e4b_text_parent()
    slice_ = resolve_slice(name, parent)
    size = sizes_of(make_plan(parent, slice_))
    layers = len(slice_.widths)
    ple = 35 * 256 if not slice_.skipped else layers * 256
    outside_layers = 6 * HIDDEN**2 + ple * HIDDEN + HIDDEN + 256
    effective = outside_layers + layers * PER_LAYER + sum(3 * HIDDEN * w for w in slice_.widths)
    assert size.effective == effective
    assert size.text == effective + 262_400 * HIDDEN + 262_144 * ple


def test_the_full_inventory_gives_the_same_numbers(shared: Path) -> None:
    parent = e4b_with_towers(shared)
    for entry in builtin_slices():
        size = sizes_of(make_plan(parent, resolve_slice(entry.name, parent)))
        assert (size.effective, size.text) == (entry.effective, entry.text)
    whole = make_plan(parent, resolve_slice("e4b", parent))
    assert len(whole.tensors) == 1676
    assert whole.config == parent.config
    assert sizes_of(whole).nbytes == 15_699_956_384


def test_kv_cache_counts_windows_and_sharing() -> None:
    """E4B: 16 sliding and 4 full layers own K/V; 2 heads of 256, keys and values, bf16."""
    parent = e4b_text_parent()
    plan = make_plan(parent, resolve_slice("e4b", parent))
    for context in (1, 512, 32768):
        tokens = 16 * min(context, 512) + 4 * context
        assert sizes_of(plan, context).kv_cache_bytes == tokens * 2 * 2 * 256 * 2


def test_only_the_necessary_config_keys_change(pico_full: Path) -> None:
    parent = open_parent(str(pico_full))
    (slice_,) = resolve_slices([{"name": "s", "widths": "1/2", "skip": [6]}], parent)
    child = make_plan(parent, slice_).config
    before, after = dict(parent.config), dict(child)
    text_before, text_after = before.pop("text_config"), after.pop("text_config")
    assert before == after
    assert list(parent.config) == list(child)
    changed = {k for k in text_after if text_before.get(k) != text_after[k]}
    assert set(text_before) == set(text_after)
    assert changed == {
        *("num_hidden_layers", "num_kv_shared_layers", "layer_types"),
        *("activation_sparsity_pattern", "intermediate_size"),
    }
    assert text_after["num_hidden_layers"] == 9
    assert text_after["num_kv_shared_layers"] == 4
    assert text_after["rope_theta"] == 1_000_000.0


def test_sparsity_stays_float_and_follows_the_source_layer(pico: Path) -> None:
    parent = open_parent(str(pico))
    (slice_,) = resolve_slices([{"name": "s", "widths": "full", "skip": [1, 2]}], parent)
    config = make_plan(parent, slice_).config
    assert config["activation_sparsity_pattern"] == [0.9, 0.9] + [0.0] * 6
    assert all(type(value) is float for value in config["activation_sparsity_pattern"])
    assert config["layer_types"][2] == "full_attention"


def test_layer_types_are_written_even_if_the_parent_leaves_them_out(pico: Path) -> None:
    parent = open_parent(str(pico))
    config = {k: v for k, v in parent.config.items() if k != "layer_types"}
    bare = build_parent(ref="p", name="p", config=config, tensors=parent.tensors, folder=None)
    child = make_plan(bare, resolve_slice("full", bare)).config
    assert child["layer_types"] == (["sliding_attention"] * 4 + ["full_attention"]) * 2


def test_text_only_config_stands_alone(pico_full: Path) -> None:
    parent = open_parent(str(pico_full))
    plan = make_plan(parent, resolve_slice("1/2", parent), text_only=True)
    assert plan.config["model_type"] == "gemma3n_text"
    assert plan.config["architectures"] == ["Gemma3nForCausalLM"]
    assert plan.config["torch_dtype"] == "bfloat16"
    assert "vision_config" not in plan.config
    assert all(tensor.name.startswith("model.") for tensor in plan.tensors)
    assert not any("language_model" in tensor.name for tensor in plan.tensors)


@st.composite
def any_slice(draw: st.DrawFn, layers: int = 35, full: int = 16384) -> Slice:
    """A random valid slice of E4B's structure."""
    skippable = [n for n in range(layers) if n not in (18, 19)]
    skipped = tuple(sorted(draw(st.sets(st.sampled_from(skippable), max_size=12))))
    kept = [n for n in range(layers) if n not in skipped]
    if kept[-1] < 20:
        skipped, kept = skipped[:-1], [*kept, skipped[-1]]
    widths = draw(st.lists(st.integers(1, full), min_size=len(kept), max_size=len(kept)))
    return Slice("random", tuple(widths), skipped)


@settings(max_examples=60, deadline=None)
@given(any_slice())
def test_every_child_is_a_whole_checkpoint_of_its_own(slice_: Slice) -> None:
    """The child's layout passes the same checks as any parent, and slices again to itself."""
    parent = e4b_text_parent()
    plan = make_plan(parent, slice_)
    layout = {t.name: TensorInfo(t.dtype, t.shape, "m.safetensors", 0) for t in plan.tensors}
    assert len(layout) == len(plan.tensors)
    child = build_parent(ref="c", name="c", config=plan.config, tensors=layout, folder=None)
    assert child.text.num_kv_shared_layers == sum(n >= 20 for n in plan.kept)
    again = make_plan(child, resolve_slice("full", child))
    assert again.config == plan.config
    assert all(tensor.axis is None for tensor in again.tensors)
    header = encode_header((t.name, t.dtype, t.shape) for t in plan.tensors)
    assert len(header) % 8 == 0


@pytest.mark.parametrize(
    ("kv", "rope", "verdicts"),
    [
        (True, True, {"mlx-lm": "ok", "mistral.rs": "ok"}),
        (False, True, {"mlx-lm": "refuses", "mistral.rs": "refuses", "llama.cpp": "refuses"}),
        (True, False, {"mlx-lm": "refuses", "mistral.rs": "untested"}),
        (False, False, {"mlx-lm": "refuses", "mistral.rs": "refuses", "llama.cpp": "refuses"}),
    ],
)
def test_verdicts_of_a_fine_tune_that_transformers_5_saved(
    kv: bool, rope: bool, verdicts: dict[str, str], pico_full: Path
) -> None:
    """It leaves out the K/V of layers that share K/V, and the two rope numbers."""
    parent = open_parent(pico_full)
    text = {k: v for k, v in parent.config["text_config"].items() if rope or "rope_" not in k}
    shared = re.compile(r"layers\.[5-9]\.self_attn\.(k_proj|v_proj|k_norm)\.")
    tensors = {n: info for n, info in parent.tensors.items() if kv or not shared.search(n)}
    saved = build_parent(
        ref="t",
        name="t",
        config={**parent.config, "text_config": text},
        tensors=tensors,
        folder=None,
    )
    plan = make_plan(saved, resolve_slice("1/2", saved), as_is=True)
    for judged in (plan, saved):
        found = {one.runtime: one.verdict for one in runtime_verdicts(judged)}
        assert verdicts.items() <= found.items()
    filled = runtime_verdicts(make_plan(saved, resolve_slice("1/2", saved)))
    assert not any(one.condition == "no_kv" for one in filled)
    assert len(parent.tensors) - len(tensors) == (0 if kv else 15)


def test_references_serve_where_objects_do() -> None:
    parent = open_parent("tiny")
    by_objects = make_plan(parent, resolve_slice("e2b", parent), kv_from=parent)
    by_names = make_plan("tiny", "e2b", kv_from="tiny")
    assert by_names.config == by_objects.config
    assert by_names.tensors == by_objects.tensors
    assert open_parent(parent) is parent
    assert resolve_slice(by_names.slice, "tiny") is by_names.slice
    assert runtime_verdicts("tiny") == runtime_verdicts(parent)
    assert len(load_tokenizer("tiny")) == len(load_tokenizer(parent))

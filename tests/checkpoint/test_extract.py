"""Extracted checkpoints, tensor by tensor, against an independent statement of the cut."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from matformer_lab.checkpoint.family import write_family
from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slice, resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.slice import Slice
from tests.support.command import CommandResult
from tests.support.pico import E4B_IN_MINIATURE, PICO, write_parent

Cli = Callable[..., CommandResult]


def load_all(folder: Path) -> dict[str, Tensor]:
    return {
        k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()
    }


def sliced_by_hand(
    parent: Mapping[str, Tensor], prefix: str, layers: int, widths: Mapping[int, int]
) -> dict[str, Tensor]:
    """What Mix-and-Match means, written with tensor indexing and nothing of the package.

    `widths`: parent layer -> FFN width, for kept layers only.
    """
    kept = sorted(widths)
    child = {}
    for name, tensor in parent.items():
        if not name.startswith(prefix + "layers."):
            part = tensor
            if name == prefix + "embed_tokens_per_layer.weight":
                part = tensor.reshape(len(tensor), layers, -1)[:, kept].reshape(len(tensor), -1)
            if name == prefix + "per_layer_model_projection.weight":
                part = tensor.reshape(layers, -1, tensor.shape[1])[kept].reshape(
                    -1, tensor.shape[1]
                )
            child[name] = part
            continue
        index, rest = name.removeprefix(prefix + "layers.").split(".", 1)
        layer = int(index)
        if layer in widths:
            part = tensor
            if rest in ("mlp.gate_proj.weight", "mlp.up_proj.weight"):
                part = tensor[: widths[layer], :]
            if rest == "mlp.down_proj.weight":
                part = tensor[:, : widths[layer]]
            child[f"{prefix}layers.{kept.index(layer)}.{rest}"] = part
    return child


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_every_tensor_is_the_sub_block_it_should_be(
    pico: Path, pico_full: Path, data: st.DataObject
) -> None:
    folder = data.draw(st.sampled_from([pico, pico_full]))
    parent = open_parent(str(folder))
    skipped = data.draw(st.sets(st.sampled_from([0, 1, 2, 5, 6, 7, 8, 9]), max_size=4))
    if {5, 6, 7, 8, 9} <= skipped:
        skipped -= {9}
    kept = [layer for layer in range(10) if layer not in skipped]
    widths = {layer: data.draw(st.integers(1, 64)) for layer in kept}
    slice_ = Slice("random", tuple(widths.values()), tuple(sorted(skipped)))
    shard_bytes = data.draw(st.sampled_from([5 * 10**9, 60_000, 20_000]))
    threads = data.draw(st.integers(1, 3))
    with TemporaryDirectory() as scratch:
        out = Path(scratch) / "child"
        plan = make_plan(parent, slice_)
        write_checkpoint(plan, out, max_shard_size=shard_bytes, threads=threads)
        assert_same(load_all(out), sliced_by_hand(load_all(folder), parent.prefix, 10, widths))
        assert verify_checkpoint(out, parent).ok
        assert [path.name for path in Path(scratch).iterdir()] == ["child"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("multimodal", [False, True])
def test_every_dtype_and_form(dtype: str, multimodal: bool, tmp_path: Path) -> None:
    folder = write_parent(tmp_path / "p", dtype=dtype, multimodal=multimodal)
    parent = open_parent(str(folder))
    out = write_checkpoint(make_plan(parent, resolve_slice("1/4", parent)), tmp_path / "c")
    by_hand = sliced_by_hand(load_all(folder), parent.prefix, 10, dict.fromkeys(range(10), 16))
    assert_same(load_all(out), by_hand)


def test_a_parent_saved_by_transformers_5_without_redundant_kv(tmp_path: Path) -> None:
    folder = write_parent(tmp_path / "p", shared_kv=False)
    parent = open_parent(str(folder))
    half = resolve_slice("1/2", parent)
    for as_is in (True, False):
        out = write_checkpoint(make_plan(parent, half, as_is=as_is), tmp_path / f"as-is-{as_is}")
        # What is filled in is checked in test_filling.
        assert any("layers.7.self_attn.k_proj" in name for name in load_all(out)) is not as_is
        assert verify_checkpoint(out, parent).ok


def test_published_slices_apply_by_name(miniature: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("slice", miniature, "--slice", "e2b", "--out", tmp_path / "e2b")
    assert (done.code, done.err) == (0, "")
    widths = {n: 32 for n in range(35) if n not in range(20, 25)}
    by_hand = sliced_by_hand(load_all(miniature), "model.language_model.", 35, widths)
    assert_same(load_all(tmp_path / "e2b"), by_hand)


def test_the_full_slice_is_the_parent(pico_full: Path, tmp_path: Path) -> None:
    parent = open_parent(str(pico_full))
    out = write_checkpoint(make_plan(parent, resolve_slice("full", parent)), tmp_path / "c")
    assert_same(load_all(out), load_all(pico_full))
    assert json.loads((out / "config.json").read_text()) == parent.config


def test_what_comes_along(pico_full: Path, tmp_path: Path) -> None:
    parent = open_parent(str(pico_full))
    slice_ = resolve_slice("1/2", parent)
    full = write_checkpoint(make_plan(parent, slice_), tmp_path / "full")
    text = write_checkpoint(make_plan(parent, slice_, text_only=True), tmp_path / "text")
    for name in ("tokenizer.json", "chat_template.jinja", "LICENSE", "generation_config.json"):
        assert (full / name).read_bytes() == (pico_full / name).read_bytes()
        assert (text / name).read_bytes() == (pico_full / name).read_bytes()
    assert (full / "preprocessor_config.json").exists()
    assert not (text / "preprocessor_config.json").exists()
    assert not any("tower" in name or "embed_vision" in name for name in load_all(text))


def test_further_chat_templates_come_along(tmp_path: Path) -> None:
    """As transformers saves a tokenizer with several: one a file, in a folder."""
    folder = write_parent(tmp_path / "p")
    (folder / "additional_chat_templates").mkdir()
    named = Path("additional_chat_templates", "terse.jinja")
    (folder / named).write_text("{{ messages[0]['content'] }}")
    (folder / named.with_name("notes.txt")).write_text("no template")
    parent = open_parent(folder)
    slices = resolve_slices(["1/2", "1/4"], parent)
    family = write_family([make_plan(parent, one) for one in slices], tmp_path / "f")
    alone = write_checkpoint(make_plan(parent, slices[0]), tmp_path / "c")
    for child in (alone, family / "uniform-1-4"):
        assert (child / named).read_bytes() == (folder / named).read_bytes()
        assert not (child / named.with_name("notes.txt")).exists()
        assert verify_checkpoint(child, parent).ok
        assert verify_checkpoint(child).ok
    (alone / named.with_name("other.jinja")).write_text("")
    (alone / named).write_text("edited")
    assert sorted(verify_checkpoint(alone).problems) == [
        "additional_chat_templates/other.jinja: does not belong to the slice",
        "additional_chat_templates/terse.jinja: does not match the manifest's digest",
    ]


def test_shards_are_no_larger_than_asked_and_the_index_is_right(
    miniature: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "c"
    size = ["--max-shard-size", "100KB"]
    done = cli("slice", miniature, "--slice", "e2.69b-layer", "--out", out, *size)
    assert done.code == 0, done.err
    files = sorted(out.glob("model-*.safetensors"))
    assert len(files) > 5
    index = json.loads((out / "model.safetensors.index.json").read_text())
    in_file = {k: file.name for file in files for k in load_file(file)}
    assert index["weight_map"] == in_file
    tensors = load_all(out)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    for file in files:
        # One tensor may be larger than a shard is asked to be; nothing may share its file then.
        assert file.stat().st_size <= 100_000 or len(load_file(file)) == 1


def test_no_lm_head_is_written(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = write_parent(tmp_path / "p")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    parent = open_parent(str(folder))
    out = write_checkpoint(make_plan(parent, resolve_slice("1/2", parent)), tmp_path / "c")
    assert "lm_head.weight" not in load_all(out)


def test_the_same_inputs_give_the_same_bytes(pico_full: Path, tmp_path: Path) -> None:
    parent = open_parent(str(pico_full))
    plan = make_plan(parent, resolve_slice("1/2", parent))
    digests = []
    for threads in (1, 4):
        out = write_checkpoint(
            plan, tmp_path / str(threads), threads=threads, max_shard_size=50_000
        )
        digests.append(
            {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}
        )
    assert digests[0] == digests[1]


def test_the_card_says_what_it_is(miniature: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "c"
    base = ["--base-model", "google/gemma-3n-E4B"]
    assert cli("slice", miniature, "--slice", "e2b", "--out", out, *base).code == 0
    card = (out / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["base_model"] == "google/gemma-3n-E4B"
    assert metadata["license"] == "gemma"
    assert "matformer" in metadata["tags"]
    parent = open_parent(str(miniature))
    plan = make_plan(parent, resolve_slice("e2b", parent))
    assert f"{sum(t.numel for t in plan.tensors):,}" in card
    assert "| 25-34 |" in card and "from_pretrained" in card and "matformer-lab slice" in card


def test_the_parents_licence_is_kept(tmp_path: Path) -> None:
    folder = write_parent(tmp_path / "p")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: a/b\n---\n# p\n")
    parent = open_parent(str(folder))
    out = write_checkpoint(make_plan(parent, resolve_slice("1/2", parent)), tmp_path / "c")
    card = (out / "README.md").read_text()
    assert "license: apache-2.0" in card and "base_model: a/b" in card


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: [" * 20_000, "gemma"),
        ("license: &a [*a, *a]", "gemma"),
        ("license: 2001-99-99", "2001-99-99"),  # no date, so a text
        ("license: !!timestamp x", "gemma"),
        ("license: !!bool x", "gemma"),
        ('license: !!int ""', "gemma"),
        ("license: " + "9" * 5000, "gemma"),
        ("- x", "gemma"),
        ("\x00", "gemma"),
    ],
    ids=lambda text: text[:22],
)
def test_a_parents_card_that_makes_no_sense(
    front: str, licence: str, pico: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pico, tmp_path / "gemma-3n-E4B"))
    (folder / "README.md").write_text(f"---\n{front}\n---\n")
    parent = open_parent(str(folder))
    out = write_checkpoint(make_plan(parent, resolve_slice("1/2", parent)), tmp_path / "c")
    metadata = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    assert metadata["base_model"] == "google/gemma-3n-E4B"  # known by the folder's name
    assert metadata["license"] == licence


def test_a_parents_card_that_wants_to_write_the_childs(pico: Path, tmp_path: Path) -> None:
    wicked = "a\x1b[2J\u202e\n---\n# owned\r\x85\u2028b ---"
    folder = Path(shutil.copytree(pico, tmp_path / "p"))
    fields = {
        "license": wicked,
        "license_name": [wicked, "c" * 200 + " d" * 100],
        "license_link": "<b>",
        "base_model": f"e/f {wicked}",
        wicked: wicked,
    }
    (folder / "README.md").write_text(f"---\n{json.dumps(fields)}\n---\n", encoding="utf-8")
    parent = open_parent(str(folder))
    out = write_checkpoint(make_plan(parent, resolve_slice("1/2", parent)), tmp_path / "c")
    card = (out / "README.md").read_text()
    assert all(line.isprintable() for line in card.split("\n"))
    assert "\n# owned" not in card and card.count("\n---\n") == 1
    metadata = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    clean = "a[2J --- # owned b ---"
    assert metadata["license"] == clean
    assert metadata["license_name"] == [clean, "c" * 200 + " d" * 100]
    assert metadata["base_model"] == f"e/f {clean}"
    assert len(card.split("\n---\n")[0].splitlines()) < 20


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
def test_a_parents_card_that_is_a_pipe(pico: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(pico, tmp_path / "p")
    os.mkfifo(tmp_path / "p" / "README.md")
    assert cli("slice", "p", "--slice", "1/2", "--out", "c", timeout=60).code == 0


CONFIGS = {"pico": PICO, "35 layers": E4B_IN_MINIATURE}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_as_4_53_writes_it(name: str, tmp_path: Path) -> None:
    """One intermediate_size for all layers, flat rope keys, torch_dtype."""
    folder = write_parent(tmp_path / "p", config=CONFIGS[name])
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] = 64
    config["torch_dtype"] = config.pop("dtype")
    config.pop("rope_parameters", None)
    (folder / "config.json").write_text(json.dumps(config))
    parent = open_parent(str(folder))
    uniform = make_plan(parent, resolve_slice("1/2", parent)).config
    assert uniform["intermediate_size"] == 32
    mixed = make_plan(parent, Slice("m", (64, *[32] * (len(parent.text.layer_types) - 1)))).config
    assert mixed["intermediate_size"] == [64] + [32] * (len(parent.text.layer_types) - 1)

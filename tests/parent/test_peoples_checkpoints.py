"""Checkpoints as people have them: read as what they mean, or told apart by what they are."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from matformer_lab.checkpoint.slices import write_slices
from matformer_lab.checkpoint.verification.verify import compare_checkpoints, verify_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_checkpoint, open_parent
from matformer_lab.parent.quantised import QuantisedCheckpoint
from matformer_lab.slicing.plan import make_plan

Tensors = dict[str, torch.Tensor]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 17179869184\n"


@dataclass(frozen=True)
class Pico:
    """A pico parent to make variants of."""

    folder: Path
    config: dict[str, Any]
    tensors: Tensors

    def variant(self, folder: Path, tensors: Tensors | None = None, **config: Any) -> Path:
        """The parent with other tensors or config keys, as one file."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
        (folder / "config.json").write_text(json.dumps({**self.config, **config}))
        weights = self.tensors if tensors is None else tensors
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder


def read(folder: Path) -> Pico:
    weights = {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
    return Pico(folder, json.loads((folder / "config.json").read_text()), weights)


@pytest.fixture(scope="module")
def text(pico: Path) -> Pico:
    return read(pico)


@pytest.fixture(scope="module")
def full(pico_full: Path) -> Pico:
    return read(pico_full)


def sliced(folder: Path, out: Path) -> Path:
    """Half of a parent, found right by verify with the parent and without."""
    write_slices(folder, "1/2", out)
    assert verify_checkpoint(out, folder).ok and verify_checkpoint(out).ok
    return out


# Names


FULL_SPELLINGS: dict[str, Callable[[str], str]] = {
    "mlx-vlm": lambda n: n.replace("model.language_model.", "language_model.model.").replace(
        "model.vision", "vision"
    ),
    "PEFT": lambda n: f"base_model.model.{n}",
    "compiled": lambda n: f"_orig_mod.{n}",
    "compiled layers": lambda n: n.replace(".mlp.", "._orig_mod.mlp."),
    "DDP": lambda n: f"module.{n}",
    "DDP of compiled": lambda n: f"module._orig_mod.{n}",
    "FSDP": lambda n: n.replace("model.", "model._fsdp_wrapped_module.", 1),
    "bare": lambda n: n.removeprefix("model."),
}
TEXT_SPELLINGS = {
    "PEFT": FULL_SPELLINGS["PEFT"],
    "compiled": FULL_SPELLINGS["compiled"],
    "bare": FULL_SPELLINGS["bare"],
    "of the full form": lambda n: n.replace("model.", "model.language_model."),
}


@pytest.mark.parametrize(
    ("form", "kind"),
    [*(("full", k) for k in FULL_SPELLINGS), *(("text", k) for k in TEXT_SPELLINGS)],
)
def test_known_spellings_are_read_and_the_published_one_is_written(
    form: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pico: Pico = request.getfixturevalue(form)
    spell = (FULL_SPELLINGS if form == "full" else TEXT_SPELLINGS)[kind]
    folder = pico.variant(tmp_path / "p", {spell(k): v for k, v in pico.tensors.items()})
    with pytest.warns(UserWarning, match="are not the published ones"):
        out = sliced(folder, tmp_path / "c")
    write_slices(pico.variant(tmp_path / "published"), "1/2", tmp_path / "right")
    assert compare_checkpoints(out, tmp_path / "right").ok


def test_a_live_slice_finds_tensors_of_another_spelling(text: Pico, tmp_path: Path) -> None:
    from matformer_lab.live.elastic import ElasticParent

    named = {FULL_SPELLINGS["compiled"](k): v for k, v in text.tensors.items()}
    folder = text.variant(tmp_path / "p", named)
    ids = torch.randint(3, 96, (1, 12), generator=torch.Generator().manual_seed(3))
    with pytest.warns(UserWarning, match="_orig_mod"), torch.no_grad():
        logits = ElasticParent.load(folder).live("1/2")(ids).logits
        assert torch.equal(logits, ElasticParent.load(text.folder).live("1/2")(ids).logits)


@pytest.mark.parametrize("prefix", ["transformer.", "my.model.", "model.model.", "text_model."])
@pytest.mark.parametrize("form", ["text", "full"])
def test_other_spellings_are_refused_with_what_was_expected(
    form: str, prefix: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pico: Pico = request.getfixturevalue(form)
    old = "model.language_model." if form == "full" else "model."
    named = {k.replace(old, prefix, 1): v for k, v in pico.tensors.items()}
    with pytest.raises(InputError, match=f"named {prefix}.*has {old}"):
        open_parent(pico.variant(tmp_path / "p", named))


def test_two_spellings_of_one_tensor_are_refused(text: Pico, tmp_path: Path) -> None:
    twice = {**text.tensors, "_orig_mod.model.norm.weight": text.tensors["model.norm.weight"] + 1}
    with pytest.raises(InputError, match="two names of one tensor"):
        open_parent(text.variant(tmp_path / "p", twice))


def test_towers_that_mlx_turned_are_not_written_as_published(full: Pico, tmp_path: Path) -> None:
    kernel = {"vision_tower.timm_model.blocks.0.conv.weight": torch.zeros(8, 3, 3, 4)}
    named = {FULL_SPELLINGS["mlx-vlm"](k): v for k, v in full.tensors.items()}
    folder = full.variant(tmp_path / "p", named | kernel)
    with pytest.warns(UserWarning, match="published"):
        with pytest.raises(InputError, match=r"MLX's layout .*blocks.0.conv.*text_only"):
            write_slices(folder, "1/2", tmp_path / "c")
        write_slices(folder, "1/2", tmp_path / "c", text_only=True)


@pytest.mark.parametrize(
    ("form", "inside", "text_only"),
    [("full", True, False), ("full", True, True), ("full", False, False), ("full", False, True),
     ("text", True, False), ("text", False, False)],
)  # fmt: skip
def test_a_note_says_which_slices_carry_what_gemma_does_not_have(
    form: str, inside: bool, text_only: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pico: Pico = request.getfixturevalue(form)
    prefix = "model.language_model." if form == "full" else "model."
    name = f"{prefix if inside else ''}value_head.weight"
    folder = pico.variant(tmp_path / "p", {**pico.tensors, name: torch.ones(3)})
    with pytest.warns(UserWarning, match="value_head"):
        parent = open_parent(folder)
    (note,) = (note for note in parent.notes if "value_head" in note)
    carried = any(
        tensor.name.endswith("value_head.weight")
        for tensor in make_plan(parent, "1/2", text_only=text_only).tensors
    )
    said = "carry them unchanged" in note
    if text_only:
        said = said and "text-only ones leave them out" not in note
    assert said == carried


# Pointers of Git-LFS and git-annex, and files that are empty or damaged


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "preprocessor_config.json", "LICENSE", "tokenizer.model"]
)
def test_a_pointer_is_not_copied(name: str, full: Pico, tmp_path: Path) -> None:
    folder = full.variant(tmp_path / "p")
    (folder / name).write_text(POINTER)
    with pytest.raises(InputError, match=rf"{name}: is a Git-LFS pointer.*git lfs pull.*hf down"):
        write_slices(folder, "1/2", tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "model.safetensors.index.json"]
)
def test_a_pointer_is_not_read(name: str, full: Pico, tmp_path: Path) -> None:
    folder = full.variant(tmp_path / "p")
    if name.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(POINTER)
    with pytest.raises(InputError, match=rf"{name}: is a Git-LFS pointer"):
        open_parent(folder)


ANNEX = "/annex/objects/SHA256E-s17179869184--4d7a.safetensors"


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "model.safetensors.index.json", "tokenizer.json",
     "tokenizer.model", "LICENSE"],
)  # fmt: skip
@pytest.mark.parametrize("depth", [0, 2])
def test_what_git_annex_did_not_fetch(
    depth: int, name: str, linked: bool, full: Pico, tmp_path: Path
) -> None:
    folder = full.variant(tmp_path / "a" / "p")
    if name.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    (folder / name).unlink(missing_ok=True)
    if linked:
        (folder / name).symlink_to("../" * depth + f".git{ANNEX.replace('SHA', 'x/y/SHA')}")
    else:
        (folder / name).write_text(ANNEX + "\n")
    with pytest.raises(InputError, match=rf"{name}: is a git-annex .*`git annex get`"):
        write_slices(folder, "1/2", tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.model", b"", "is empty"),
        ("tokenizer.model", b"not found", "is not a SentencePiece model"),
        ("tokenizer.json", b"", "is empty"),
        ("tokenizer.json", b'{"version": "1.0", "model"', "is not JSON .*"),
        ("tokenizer.json", b"\xff\xff", "is not JSON .*"),
        ("preprocessor_config.json", b"", "is empty"),
    ],
)
def test_a_damaged_tokenizer_is_not_copied(
    name: str, content: bytes, says: str, full: Pico, tmp_path: Path
) -> None:
    folder = full.variant(tmp_path / "p")
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: {says}; download it again"):
        write_slices(folder, "1/2", tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (POINTER.replace("\n", "\r\n"), "is a Git-LFS pointer"),
        ("\ufeff" + POINTER, "is a Git-LFS pointer"),
        (POINTER.replace("git-lfs", "hawser"), "is a Git-LFS pointer"),
        ('# xet version 0\nfilesize = 17\nhash = "4d7a"\n', "is a Xet pointer.*hf download"),
        ("/annex/objects/SHA256E-s9--4d7a.json\n", "is a git-annex pointer.*git annex get"),
        ("../.git/annex/objects/x/SHA256E-s9--4d.json", "is a git-annex pointer.*git annex get"),
        ("../../../.git/annex/objects/x/SHA256-s9", "is a git-annex pointer.*git annex get"),
        ("<!DOCTYPE html>\n<html>Log in</html>", "is a web page"),
        ("<html><head></head></html>", "is a web page"),
    ],
)
def test_what_stands_in_the_place_of_a_file(
    text: str, says: str, full: Pico, tmp_path: Path
) -> None:
    folder = full.variant(tmp_path / "p")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match=rf"tokenizer.json: {says}"):
        write_slices(folder, "1/2", tmp_path / "c")
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=rf"config.json: {says}"):
        open_parent(folder)


def test_text_in_place_of_weights(full: Pico, tmp_path: Path) -> None:
    folder = full.variant(tmp_path / "p")
    (folder / "model.safetensors").write_text("Invalid credentials in Authorization header")
    with pytest.raises(InputError, match=r"is text .*not a safetensors file"):
        open_parent(folder)


# Tensors beside those of the model

UP = "model.layers.3.mlp.up_proj"
BESIDE: dict[str, tuple[str, tuple[int, ...]]] = {
    "a bias of the FFN": (f"{UP}.bias", (64,)),
    "LoRA's B": (f"{UP}.lora_B.default.weight", (64, 4)),
    "LoRA's A": (f"{UP}.lora_A.weight", (4, 32)),
    "LoRA on attention": ("model.layers.3.self_attn.q_proj.lora_A.weight", (4, 32)),
    "a fused matrix": ("model.layers.3.mlp.gate_up_proj.weight", (128, 32)),
    "somebody's scale": ("model.layers.3.mlp.neuron_scale", (64,)),
    "a scale of every layer's inputs": ("model.per_layer_gain", (80,)),
    "an adapter": ("model.layers.3.adapter.down.weight", (4, 32)),
    "another's adapter": ("model.layers.3.output_adapters.mine.weight", (4, 8)),
    "VeRA's matrix, which all layers share": ("base_model.vera_A.default", (4, 8)),
    "prompt tuning": ("prompt_encoder.default.embedding.weight", (4, 8)),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_no_rule_cuts_is_named(kind: str, text: Pico, tmp_path: Path) -> None:
    name, shape = BESIDE[kind]
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        open_parent(text.variant(tmp_path / "p", {**text.tensors, name: torch.zeros(shape)}))


def test_what_no_cut_touches_rides_along(text: Pico, tmp_path: Path) -> None:
    extra = {"model.layers.3.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    with pytest.warns(UserWarning, match=r"does not have \(1, such as .*inv_freq\)"):
        out = sliced(text.variant(tmp_path / "p", {**text.tensors, **extra}), tmp_path / "c")
    assert extra.keys() <= load_file(out / "model.safetensors").keys()


def test_layers_past_the_last_are_left_out_with_a_line(text: Pico, tmp_path: Path) -> None:
    extra = {"model.layers.10.mlp.up_proj.weight": torch.ones(64, 32)}
    with pytest.warns(UserWarning, match=r"layers past the 10 .*\.10\..*left out"):
        out = sliced(text.variant(tmp_path / "p", {**text.tensors, **extra}), tmp_path / "c")
    assert not extra.keys() & load_file(out / "model.safetensors").keys()


@pytest.mark.parametrize(
    ("of", "to"),
    [("model.layers.3.", "other.layers.3."), ("norm.weight", "norm.gamma"), (".mlp.", ".ffn.")],
)
def test_a_tensor_that_has_another_name_is_named(
    of: str, to: str, full: Pico, tmp_path: Path
) -> None:
    of = of.replace("model.", "model.language_model.")
    named = {k.replace(of, to): v for k, v in full.tensors.items()}
    with pytest.raises(InputError, match=f"{to}".replace(".", r"\.")):
        open_parent(full.variant(tmp_path / "p", named))


# Weight files


def as_shards(folder: Path, names: tuple[str, ...], index: str | None = None) -> Path:
    """The tensors of model.safetensors in files of other names."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    for number, name in enumerate(names):
        part = dict(list(tensors.items())[number :: len(names)])
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    if index:
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


TWO = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    ("names", "index"),
    [
        (TWO, None),
        (("model-00001-of-00001.safetensors",), None),
        (("model.bf16.safetensors",), None),
        (("weights.safetensors",), None),
        (("a.safetensors", "b.safetensors"), None),
        (
            ("model.bf16-00001-of-00002.safetensors", "model.bf16-00002-of-00002.safetensors"),
            "model.safetensors.index.bf16.json",
        ),
    ],
)
def test_headers_suffice(
    names: tuple[str, ...], index: str | None, text: Pico, tmp_path: Path
) -> None:
    folder = as_shards(text.variant(tmp_path / "p"), names, index)
    assert open_parent(folder).tensors.keys() == text.tensors.keys()
    sliced(folder, tmp_path / "c")


def test_a_missing_shard_is_named_without_an_index(text: Pico, tmp_path: Path) -> None:
    folder = as_shards(text.variant(tmp_path / "p"), TWO)
    (folder / TWO[1]).unlink()
    with pytest.raises(InputError, match=f"{TWO[1]} is missing"):
        open_parent(folder)


def stale(folder: Path) -> None:
    """A model of fewer layers, under the name of a single file."""
    some = {k: v for k, v in load_file(folder / TWO[0]).items() if ".layers.9." not in k}
    save_file(some, folder / "model.safetensors")


def test_of_a_stale_file_and_an_indexed_set_the_one_that_fits_is_read(
    text: Pico, tmp_path: Path
) -> None:
    folder = as_shards(text.variant(tmp_path / "p"), TWO, "model.safetensors.index.json")
    stale(folder)
    assert {info.file for info in open_parent(folder).tensors.values()} == set(TWO)
    sliced(folder, tmp_path / "c")


def test_an_index_of_nothing_beside_a_whole_file_is_left_alone(text: Pico, tmp_path: Path) -> None:
    folder = text.variant(tmp_path / "p")
    index = {"weight_map": {"model.norm.weight": TWO[0]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert {i.file for i in open_parent(folder).tensors.values()} == {"model.safetensors"}


def test_two_whole_sets_are_both_named(text: Pico, tmp_path: Path) -> None:
    folder = as_shards(text.variant(tmp_path / "p"), TWO, "model.safetensors.index.json")
    save_file(text.tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors and model\.safetensors\.index\.json"):
        open_parent(folder)


def test_an_index_of_a_single_file(text: Pico, tmp_path: Path) -> None:
    """As mlx-lm and others write it."""
    folder = text.variant(tmp_path / "p")
    index = {"weight_map": dict.fromkeys(text.tensors, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    sliced(folder, tmp_path / "c")


def test_an_index_may_say_dot_slash(text: Pico, tmp_path: Path) -> None:
    folder = as_shards(text.variant(tmp_path / "p"), TWO, "model.safetensors.index.json")
    path = folder / "model.safetensors.index.json"
    path.write_text(path.read_text().replace('"model-', '"./model-'))
    sliced(folder, tmp_path / "c")


def test_an_index_of_a_name_that_no_file_can_have(text: Pico, tmp_path: Path) -> None:
    folder = as_shards(text.variant(tmp_path / "p"), TWO, "model.safetensors.index.json")
    path = folder / "model.safetensors.index.json"
    path.write_text(path.read_text().replace('"model-00001', f'"m{"[" * 2000}'))
    with pytest.raises(InputError, match=r"index\.json: shard m\[\["):
        open_parent(folder)


def test_towers_of_any_dtype_are_carried(full: Pico, tmp_path: Path) -> None:
    odd = {
        "model.vision_tower.a.weight": torch.ones(3, dtype=torch.complex64),
        "model.audio_tower.b.weight": torch.ones(3, 2).to(torch.float8_e4m3fn),
        "model.audio_tower.b.weight_scale": torch.ones(2).to(torch.float8_e8m0fnu),
    }
    sliced(full.variant(tmp_path / "p", {**full.tensors, **odd}), tmp_path / "c")


# Links


def test_a_folder_that_shows_another_by_links(full: Pico, tmp_path: Path) -> None:
    real = full.variant(tmp_path / "real")
    (tmp_path / "view").mkdir()
    for path in real.iterdir():
        (tmp_path / "view" / path.name).symlink_to(path)
    out = sliced(tmp_path / "view", tmp_path / "c")
    assert (out / "tokenizer.json").read_bytes() == (real / "tokenizer.json").read_bytes()


@pytest.fixture
def cache(full: Pico, tmp_path: Path) -> Path:
    """A Hub cache whose blobs are on another disk; the snapshot's folder."""
    from hashlib import sha256

    repo = tmp_path / "hub" / "models--me--tuned"
    snapshot, disk = repo / "snapshots" / ("a" * 40), tmp_path / "disk"
    snapshot.mkdir(parents=True)
    disk.mkdir()
    (repo / "blobs").symlink_to(disk)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    for path in full.variant(tmp_path / "real").iterdir():
        name = sha256(path.name.encode()).hexdigest()
        path.rename(disk / name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / name)
    return snapshot


def test_a_cache_whose_blobs_are_elsewhere(cache: Path, tmp_path: Path) -> None:
    sliced(cache, tmp_path / "c")


@pytest.mark.parametrize("to_blobs", [False, True])
def test_single_links_into_a_cache(to_blobs: bool, cache: Path, tmp_path: Path) -> None:
    """Weights from the cache, a config of one's own."""
    (tmp_path / "mine").mkdir()
    for path in cache.iterdir():
        blob = cache.parent.parent / "blobs" / path.readlink().name
        (tmp_path / "mine" / path.name).symlink_to(blob if to_blobs else path)
    (tmp_path / "mine" / "config.json").unlink()
    shutil.copy(cache / "config.json", tmp_path / "mine")
    sliced(tmp_path / "mine", tmp_path / "c")


def test_a_link_in_the_shape_of_a_cache_leads_to_blobs_only(full: Pico, tmp_path: Path) -> None:
    folder = full.variant(tmp_path / "x" / "snapshots" / "y")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "id_rsa").write_text("secret")
    (tmp_path / "x" / "blobs").symlink_to(tmp_path / "home")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("../../blobs/id_rsa")
    with pytest.raises(InputError, match="leads out"):
        write_slices(folder, "1/2", tmp_path / "c")


def dangling(path: Path) -> None:
    path.symlink_to("not-there.json")


def looping(path: Path) -> None:
    path.symlink_to(path.name)


def a_pipe(path: Path) -> None:
    import os

    os.mkfifo(path)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        *((n, b) for n in ("tokenizer.json", "LICENSE") for b in (dangling, looping, a_pipe)),
        ("tokenizer.json", Path.mkdir),
        ("special_tokens_map.json", dangling),
        ("preprocessor_config.json", dangling),
    ],
)
def test_a_side_file_that_is_none_is_named(
    name: str, broken: Callable[[Path], None], full: Pico, tmp_path: Path
) -> None:
    folder = full.variant(tmp_path / "p")
    (folder / name).unlink(missing_ok=True)
    broken(folder / name)
    with pytest.raises(InputError, match=name):
        write_slices(folder, "1/2", tmp_path / "c")
    assert not (tmp_path / "c").exists()


# Numbers of a config


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "1E5", "0.10", "1e-06"])
def test_numbers_are_written_back_as_they_were(number: str, full: Pico, tmp_path: Path) -> None:
    folder = full.variant(tmp_path / "p", mine={"a": [1, "here"]})
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"here"', number))
    out = sliced(folder, tmp_path / "c")
    assert f"\n      {number}\n" in (out / "config.json").read_text()
    assert verify_checkpoint(out, folder).ok


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (lambda text: text.encode().replace(b'"pt"', b'"\xe9"') + b"\xe9", "is not UTF-8"),
        (lambda text: b"// mine\n" + text.encode(), "line 1"),
        (lambda text: text.rstrip()[:-1].encode() + b",\n}", "line "),
    ],
)
def test_a_config_that_is_not_json_is_named_with_the_line(
    change: Callable[[str], bytes], says: str, full: Pico, tmp_path: Path
) -> None:
    folder = full.variant(tmp_path / "p")
    path = folder / "config.json"
    path.write_bytes(change(path.read_text()))
    with pytest.raises(InputError, match=rf"config.json: not valid JSON.*{says}"):
        open_parent(folder)


def test_a_byte_order_mark_is_left_out(full: Pico, tmp_path: Path) -> None:
    folder = full.variant(tmp_path / "p")
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    out = sliced(folder, tmp_path / "c")
    assert (out / "config.json").read_bytes().startswith(b"{")


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "activation_sparsity_pattern"])
def test_what_is_read_must_be_a_number(key: str, text: Pico, tmp_path: Path) -> None:
    folder = text.variant(tmp_path / "p", None, **{key: float("inf")})
    with pytest.raises(InputError, match=key):
        open_parent(folder)


# NaN and infinity in weights


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_named(value: float, text: Pico, tmp_path: Path) -> None:
    name = f"{UP}.weight"
    tensors = {**text.tensors, name: text.tensors[name].clone()}
    tensors[name][3, 5] = value
    folder = text.variant(tmp_path / "p", tensors)
    assert open_parent(folder).not_finite == {name}
    assert open_parent(text.folder).not_finite == set()
    write_slices(folder, "1/2", tmp_path / "c")
    wanted = (f"tensor {name}: holds NaN or infinity",)
    assert verify_checkpoint(tmp_path / "c").problems == wanted
    assert verify_checkpoint(tmp_path / "c", folder).problems == wanted


# Quantised


QUANTISED: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor], str]] = {
    "bitsandbytes nf4": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {
            ".weight": torch.zeros(1024, 1, dtype=torch.uint8),
            ".weight.absmax": torch.zeros(32),
            ".weight.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8),
        },
        "bitsandbytes nf4",
    ),
    "bitsandbytes int8": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {".weight": torch.zeros(64, 32, dtype=torch.int8), ".SCB": torch.zeros(64)},
        "bitsandbytes int8",
    ),
    "GPTQ": (
        {"quant_method": "gptq", "bits": 4},
        {
            ".qweight": torch.zeros(4, 64, dtype=torch.int32),
            ".qzeros": torch.zeros(1, 8, dtype=torch.int32),
            ".scales": torch.zeros(1, 64),
            ".g_idx": torch.zeros(32, dtype=torch.int32),
        },
        "gptq 4-bit",
    ),
    "AWQ": (
        {"quant_method": "awq", "bits": 4},
        {
            ".qweight": torch.zeros(32, 8, dtype=torch.int32),
            ".qzeros": torch.zeros(1, 8, dtype=torch.int32),
            ".scales": torch.zeros(1, 64),
        },
        "awq 4-bit",
    ),
    "fp8": (
        {"quant_method": "fp8"},
        {
            ".weight": torch.zeros(64, 32).to(torch.float8_e4m3fn),
            ".weight_scale_inv": torch.zeros(1, 1),
        },
        "fp8",
    ),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors"},
        {".weight_packed": torch.zeros(64, 4, dtype=torch.int32)},
        "compressed-tensors",
    ),
    "torchao": (  # 0.18, by transformers 5.23
        {
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2}},
        },
        {
            "._weight_qdata": torch.zeros(64, 32, dtype=torch.int8),
            "._weight_scale": torch.zeros(64, 1),
            "._weight_zero_point": torch.zeros(64, 1, dtype=torch.int8),
        },
        "torchao Int8WeightOnlyConfig",
    ),
    "torchao, as it was": (
        {"quant_method": "torchao"},
        {".weight:_data": torch.zeros(64, 32, dtype=torch.int8), ".weight:_scale": torch.zeros(64)},
        "torchao",
    ),
    "nothing in the config": (
        {},
        {".weight": torch.zeros(64, 32, dtype=torch.int8)},
        "I8",
    ),
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_parents_are_said_to_be(kind: str, text: Pico, tmp_path: Path) -> None:
    settings, parts, says = QUANTISED[kind]
    tensors = {k: v for k, v in text.tensors.items() if k != f"{UP}.weight"}
    tensors |= {f"{UP}{end}": tensor for end, tensor in parts.items()}
    folder = text.variant(tmp_path / "p", tensors, quantization_config=settings)
    with pytest.raises(InputError, match=rf"is quantised \({says}.*slice the bf16 original"):
        open_parent(folder)
    found = open_checkpoint(folder)
    assert isinstance(found, QuantisedCheckpoint)
    assert [name for name, packed in found.weights.items() if packed] == [f"{UP}.weight"]
    assert found.weights.keys() == text.tensors.keys()


def test_quantised_towers_are_counted_and_named(full: Pico, tmp_path: Path) -> None:
    """A tower alone does not make a checkpoint quantised; beside quantised text it counts."""
    kernel = torch.ones(3, 2, 3, 3, dtype=torch.int8)
    tower = {
        "model.vision_tower.a.weight": kernel,
        "model.audio_tower.b._weight_qdata": torch.ones(4, 4, dtype=torch.int8),
        "model.audio_tower.b._weight_scale": torch.ones(4, 1),
    }
    folder = full.variant(tmp_path / "p", full.tensors | tower)
    assert not isinstance(open_checkpoint(folder), QuantisedCheckpoint)
    up = f"model.language_{UP}.weight"
    text = {up: torch.zeros(full.tensors[up].shape, dtype=torch.int8)}
    found = open_checkpoint(full.variant(tmp_path / "q", full.tensors | tower | text))
    assert isinstance(found, QuantisedCheckpoint)
    assert found.example == up
    packed = {name for name, is_packed in found.weights.items() if is_packed}
    assert packed == {up, "model.vision_tower.a.weight", "model.audio_tower.b.weight"}
    assert found.should_not_be == ("vision_tower", "audio_tower")


def test_mlx_4_bit(text: Pico, tmp_path: Path) -> None:
    tensors = dict(text.tensors)
    for name in [n for n in tensors if "proj.weight" in n]:
        stem = name.removesuffix(".weight")
        tensors[name] = torch.zeros(len(tensors[name]), 4, dtype=torch.uint32)
        tensors |= {f"{stem}.scales": torch.zeros(2), f"{stem}.biases": torch.zeros(2)}
    folder = text.variant(tmp_path / "p", tensors, quantization={"group_size": 64, "bits": 4})
    with pytest.raises(InputError, match=r"is quantised \(MLX 4-bit"):
        open_parent(folder)


@pytest.mark.parametrize("form", ["text", "full"])
@pytest.mark.parametrize("in_text", [False, True])
def test_settings_of_quantisation_without_any_are_dropped(
    form: str, in_text: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """transformers would quantise the slice's bf16 weights, or look for what is not there."""
    pico: Pico = request.getfixturevalue(form)
    settings: dict[str, Any] = {
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}
    }
    settings |= {"quantization": {"group_size": 64, "bits": 4}}
    if in_text and form == "full":
        settings = {"text_config": {**pico.config["text_config"], **settings}}
    with pytest.warns(UserWarning, match="no tensor is quantised"):
        out = sliced(pico.variant(tmp_path / "p", **settings), tmp_path / "c")
    assert "quantization" not in (out / "config.json").read_text()


def test_settings_for_quantised_towers_stay(full: Pico, tmp_path: Path) -> None:
    tower = {"model.vision_tower.a.weight": torch.ones(3, 2).to(torch.float8_e4m3fn)}
    settings = {"quantization_config": {"quant_method": "fp8"}}
    folder = full.variant(tmp_path / "p", {**full.tensors, **tower}, **settings)
    config = json.loads((sliced(folder, tmp_path / "c") / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "fp8"}
    write_slices(folder, "1/2", tmp_path / "t", text_only=True)
    assert "quantization" not in (tmp_path / "t" / "config.json").read_text()


# References


def test_references_that_are_understood(cache: Path) -> None:
    opened = open_parent(cache.parent.parent)
    assert (opened.name, opened.revision) == ("me/tuned", "a" * 40)
    for path in (cache / "model.safetensors", cache / "config.json"):
        assert open_parent(path).tensors == opened.tensors


def test_parts_of_a_cache_are_told(cache: Path) -> None:
    root = cache.parent.parent
    for part in ("snapshots", "refs", "blobs"):
        with pytest.raises(InputError, match=f"{part}: is a part of a Hub cache; give {root}$"):
            open_parent(root / part)
    with pytest.raises(InputError, match=r"give one of its models by its id \(me/tuned\)"):
        open_parent(root.parent)


def test_a_home_is_understood(text: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a recipe has it, which no shell reads."""
    monkeypatch.setenv("HOME", str(tmp_path))
    text.variant(tmp_path / "p")
    assert open_parent("~/p").folder == tmp_path / "p"


def adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "google/gemma-3n-E4B"}'
    )
    return folder


def a_file(path: Path) -> Path:
    path.write_bytes(b"GGUF")
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda tmp: adapter(tmp / "a"), "is an adapter of google/gemma-3n-E4B.*merge_and_unload"),
        (lambda tmp: a_file(tmp / "m.gguf"), "is a GGUF"),
        (lambda tmp: a_file(tmp / "m.safetensors"), "with config.json beside"),
        (lambda tmp: tmp / "nothing", "no such folder"),
        (lambda tmp: "./nothing", "no such folder"),
        (lambda tmp: "me/it.", "no such folder"),
        (lambda tmp: "me/a--b", "no such folder"),
        (lambda tmp: "E4B", "did you mean google/gemma-3n-E4B?"),
        (lambda tmp: "https://hf.co/datasets/me/it", "is not a model's address on the Hub"),
        (lambda tmp: "me/nothing.gguf", "no such file"),
        (lambda tmp: "Tiny", "did you mean `tiny`"),
        (lambda tmp: "gemma-3n-e4b", "did you mean google/gemma-3n-E4B?"),
        (lambda tmp: "gemma3n-e2b-it", "did you mean google/gemma-3n-E2B-it?"),
    ],
)
def test_references_that_are_told_apart(
    make: Callable[[Path], Path | str], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        open_parent(make(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "ref"),
    [
        ("https://huggingface.co/google/gemma-3n-E4B", "google/gemma-3n-E4B"),
        ("http://hf.co/google/gemma-3n-E4B/", "google/gemma-3n-E4B"),
        ("https://huggingface.co/me/it/tree/v2", "me/it@v2"),
        ("https://huggingface.co/me/it/blob/main/config.json?download=true", "me/it@main"),
        ("hf://me/it", "me/it"),
        ("hf://me/it@v1", "me/it@v1"),
        ("hf.co/me/it/", "me/it"),
        ("huggingface.co/me/it", "me/it"),
        ("git@hf.co:me/it.git", "me/it"),
        ("https://huggingface.co/me/it.git", "me/it"),
        ("https://huggingface.co/me/it/resolve/main/model.safetensors", "me/it@main"),
        ("https://huggingface.co/me/it/discussions/3", "me/it"),
        ("https://huggingface.co/me/it/tree/refs%2Fpr%2F1", "me/it@refs/pr/1"),
        ("https://huggingface.co/me/it/tree/refs/pr/1", "me/it@refs/pr/1"),
        ("me/it", "me/it"),
        ("https://huggingface.co/datasets/me/it", "https://huggingface.co/datasets/me/it"),
        ("https://example.org/me/it", "https://example.org/me/it"),
    ],
)
def test_pages_of_the_hub(written: str, ref: str) -> None:
    from matformer_lab.parent.references import without_url

    assert without_url(written) == ref


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("gemma4", "1536 and 2560"),
        ("nemotron_h", "Nemotron Elastic"),
        ("llama", "only Gemma 3n"),
        ("gemma3", "other Gemmas"),
        ("paligemma", "other Gemmas"),
        ("gemma3n_audio", "a tower"),
        ("olmo2", "MatFormer-OLMo"),
        (None, "no model_type"),
    ],
)
def test_other_models_are_told_why(kind: str, says: str, text: Pico, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        open_parent(text.variant(tmp_path / "p", model_type=kind))

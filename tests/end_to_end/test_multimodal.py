"""Pictures and sound through slices.

Needs timm and torchvision; `test_multimodal_environment` makes an environment that has them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("timm", reason="pictures need timm; see test_multimodal_environment.py")

from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    Gemma3nForCausalLM,
    Gemma3nForConditionalGeneration,
    pipeline,
)

from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slice, resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.slice import Slice
from tests.support.by_hand import cut_by_hand
from tests.support.multimodal import write_seeing_and_hearing_parent

SLICES = ("e4b", "e2b", "mixed")
_RANDOM = np.random.default_rng(0)
PICTURE = Image.fromarray(_RANDOM.integers(0, 255, (60, 40, 3), dtype=np.uint8))
SOUND = (_RANDOM.standard_normal(16_000) * 0.1).astype(np.float32)
QUESTION = [
    {
        "role": "user",
        "content": [
            {"type": "image", "image": PICTURE},
            {"type": "audio", "audio": SOUND},
            {"type": "text", "text": "What is it?"},
        ],
    }
]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    return open_parent(str(write_seeing_and_hearing_parent(tmp_path_factory.mktemp("parent"))))


@pytest.fixture(scope="module")
def processor(parent: Parent) -> Any:
    return processor_of(parent.local)


@pytest.fixture(scope="module")
def prompt(processor: Any) -> Any:
    """A picture, a sound and a question, as the model takes them."""
    text = processor.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    return processor(
        text=text, images=[PICTURE], audio=[SOUND], return_tensors="pt", add_special_tokens=False
    )


@pytest.fixture(scope="module")
def elastic(parent: Parent) -> ElasticParent:
    return ElasticParent.load(parent, towers=True)


@pytest.fixture(scope="module", params=SLICES)
def cut(
    request: pytest.FixtureRequest, parent: Parent, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Slice, Path]:
    """A slice and its checkpoint."""
    if request.param == "mixed":
        widths = {"0-2": "1/4", "4-9": "3/4", "10-20": "full", "24-34": "1/2"}
        written = {"name": "mixed", "widths": widths, "skip": [3, "21-23"]}
        (slice_,) = resolve_slices([written], parent)
    else:
        slice_ = resolve_slice(request.param, parent)
    folder = tmp_path_factory.mktemp("child") / "child"
    return slice_, write_checkpoint(make_plan(parent, slice_), folder)


def processor_of(folder: Path) -> Any:
    loader: Any = AutoProcessor
    return loader.from_pretrained(folder)


def loaded(folder: Path) -> Any:
    loader: Any = Gemma3nForConditionalGeneration
    model, info = loader.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    return model.train(False)


def logits(model: Any, prompt: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**prompt).logits
    return found


def test_a_slice_sees_and_hears_what_an_independent_cut_does(
    parent: Parent, cut: tuple[Slice, Path], prompt: Any
) -> None:
    slice_, folder = cut
    assert verify_checkpoint(folder, parent).ok
    child = loaded(folder)
    # A full slice is compared with the parent itself, any other with a model cut by hand.
    truth = loaded(parent.local)
    if slice_.name != "e4b":
        truth = cut_by_hand(truth, slice_.skipped, slice_.widths)
    expected, found = logits(truth, prompt), logits(child, prompt)
    assert expected.std() > 0.03
    assert (found - expected).abs().max() <= 1e-5
    both = [
        model.generate(**prompt, max_new_tokens=20, do_sample=False) for model in (truth, child)
    ]
    assert both[0].shape[1] > prompt["input_ids"].shape[1]
    assert torch.equal(*both)


def test_picture_and_sound_matter(elastic: ElasticParent, prompt: Any) -> None:
    """Without this, a slice that ignored its towers would pass the other tests."""
    model = elastic.live_multimodal("e2b")
    before = logits(model, prompt)
    for part in ("pixel_values", "input_features"):
        other = {**prompt, part: prompt[part].flip(-1) * 0.5}
        assert (logits(model, other) - before).abs().max() > 1e-4, part


def test_live_slices_are_the_same_and_share_towers_and_weights(
    elastic: ElasticParent, cut: tuple[Slice, Path], prompt: Any
) -> None:
    slice_, folder = cut
    made = elastic.live_multimodal(slice_)
    assert isinstance(made, Gemma3nForConditionalGeneration)
    live: Any = made
    assert torch.equal(logits(live, prompt), logits(loaded(folder), prompt))
    other: Any = elastic.live_multimodal("e2b")
    for name in ("vision_tower", "audio_tower", "embed_vision", "embed_audio"):
        assert getattr(live.model, name) is getattr(other.model, name)
    mine = live.model.language_model.layers[0].self_attn.q_proj.weight
    assert mine.data_ptr() == elastic.weights["layers.0.self_attn.q_proj.weight"].data_ptr()
    assert live.config.text_config.num_hidden_layers == 35 - len(slice_.skipped)
    tokens = live.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert tokens.shape[1] > prompt["input_ids"].shape[1]


@pytest.mark.parametrize("cut", ["e2b"], indirect=True)
def test_the_two_snippets_of_the_model_card(cut: tuple[Slice, Path]) -> None:
    """`pipeline` and AutoProcessor with AutoModelForImageTextToText give the same answer."""
    _, folder = cut
    answer: Any = pipeline(
        "image-text-to-text", model=str(folder), device="cpu", dtype=torch.float32
    )
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": PICTURE},
                {"type": "text", "text": "Which animal is this?"},
            ],
        },
    ]
    (output,) = answer(text=messages, max_new_tokens=8, generate_kwargs={"do_sample": False})
    said = output["generated_text"][-1]["content"]

    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = processor_of(folder)
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = tokens[0][inputs["input_ids"].shape[-1] :]
    assert len(new) == 8
    assert said == processor.decode(new, skip_special_tokens=True)


def test_the_multimodal_class_computes_what_the_text_form_does(
    parent: Parent, tmp_path: Path
) -> None:
    e2b = resolve_slice("e2b", parent)
    full = write_checkpoint(make_plan(parent, e2b), tmp_path / "full")
    text = write_checkpoint(make_plan(parent, e2b, text_only=True), tmp_path / "text")
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        expected = Gemma3nForCausalLM.from_pretrained(text, dtype=torch.float32)(ids).logits
        for loader in (AutoModelForImageTextToText, AutoModelForCausalLM):
            model: Any = loader.from_pretrained(full, dtype=torch.float32)
            assert isinstance(model, Gemma3nForConditionalGeneration)
            assert torch.equal(model.train(False)(input_ids=ids).logits, expected)


def test_towers_of_another_architecture_are_named(parent: Parent, tmp_path: Path) -> None:
    """A config that says other channels than the weights have: an error, not random weights."""
    folder = tmp_path / "other"
    shutil.copytree(parent.local, folder)
    config = json.loads((folder / "config.json").read_text())
    config["audio_config"]["conf_num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"its towers are not those of its config.*audio_tower"):
        ElasticParent.load(str(folder), towers=True)

"""The full form, loaded by transformers' multimodal class. Needs timm (for the vision tower)."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("timm", reason="transformers' multimodal class needs timm, which is not here")

from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3nConfig,
    Gemma3nForCausalLM,
    Gemma3nForConditionalGeneration,
)

from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan

TEXT = {
    "vocab_size": 320,
    "vocab_size_per_layer_input": 300,
    "hidden_size": 32,
    "hidden_size_per_layer_input": 4,
    "head_dim": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "laurel_rank": 2,
    "intermediate_size": [64] * 35,
    "num_hidden_layers": 35,
    "num_kv_shared_layers": 15,
    "sliding_window": 8,
    "max_position_embeddings": 128,
}
AUDIO = {
    "hidden_size": 16,
    "conf_num_attention_heads": 2,
    "conf_num_hidden_layers": 2,
    "vocab_size": 8,
    "vocab_offset": 312,
    "sscp_conv_channel_size": [4, 2],
    "input_feat_size": 16,
}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    """Miniature text and audio parts; the vision tower is timm's own, 294 million parameters."""
    folder = tmp_path_factory.mktemp("parent")
    torch.manual_seed(0)
    vision = {"vocab_size": 8, "vocab_offset": 304}
    model = Gemma3nForConditionalGeneration(
        Gemma3nConfig(text_config=TEXT, audio_config=AUDIO, vision_config=vision)
    )
    for name, weight in model.named_parameters():
        if name.endswith("correct_output_scale"):
            torch.nn.init.normal_(weight)
    model.save_pretrained(folder)
    return open_parent(str(folder))


@pytest.mark.slow
def test_the_multimodal_class_loads_a_slice_and_computes_what_its_text_form_does(
    parent: Parent, tmp_path: Path
) -> None:
    e2b = resolve_slice("e2b", parent)
    full = write_checkpoint(make_plan(parent, e2b), tmp_path / "full")
    text = write_checkpoint(make_plan(parent, e2b, text_only=True), tmp_path / "text")
    assert verify_checkpoint(full, parent).ok
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = Gemma3nForCausalLM.from_pretrained(text, dtype=torch.float32)(ids).logits
        for loader in (AutoModelForImageTextToText, AutoModelForCausalLM):
            loaded: Any = loader.from_pretrained(
                full, dtype=torch.float32, output_loading_info=True
            )
            model, info = loaded  # transformers' types do not know of the loading info
            assert isinstance(model, Gemma3nForConditionalGeneration)
            assert not any(info.values()), info
            assert torch.equal(model.train(False)(input_ids=ids).logits, expected)

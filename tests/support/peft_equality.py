"""One adapter on every slice, with PEFT itself: `peft_equality.py FOLDER` prints differences.

For each slice: the largest difference between the logits of the slice with the cut adapter, and
those of the slice of the merged model. And what `verify` says of the slice that transformers saved
again, and of the one with the adapter merged.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Gemma3nForCausalLM

import matformer_lab as ml
from tests.support.pico import write_parent


def main(folder: Path) -> None:
    parent = write_parent(folder / "parent", dtype="float32", scale=0.1)
    torch.manual_seed(1)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=r".*\.(q_proj|o_proj|gate_proj|up_proj|down_proj|per_layer_model_projection)",
        rank_pattern={r".*layers\.7\.mlp\.up_proj": 2},
        alpha_pattern={r".*layers\.[38]\.self_attn\.q_proj": 3},
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(Gemma3nForCausalLM.from_pretrained(parent), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / "adapter")
    model.merge_and_unload().save_pretrained(folder / "merged")
    mixed = {"name": "mixed", "widths": [64, 32, 16, 48, 64, 8, 32, 16], "skip": [2, 6]}
    tokens = torch.arange(24)[None] * 7 % 96
    for entry in ("full", "1/4", mixed):
        (slice_,) = ml.resolve_slices([entry], ml.open_parent(parent))
        out = folder / slice_.name
        ml.slice_adapter(folder / "adapter", slice_, out / "adapter", parent=parent)
        ml.write_slices(parent, [entry], out / "base", progress=False)
        ml.write_slices(folder / "merged", [entry], out / "merged", progress=False)
        base = Gemma3nForCausalLM.from_pretrained(out / "base")
        ours = PeftModel.from_pretrained(base, out / "adapter").eval()
        theirs = Gemma3nForCausalLM.from_pretrained(out / "merged")
        theirs.train(False)
        with torch.no_grad():
            difference = (ours(tokens).logits - theirs(tokens).logits).abs().max()
            with ours.disable_adapter():  # the adapter must have done something
                effect = (ours(tokens).logits - theirs(tokens).logits).abs().max()
        assert effect > 0.02, effect
        print(slice_.name, float(difference))
        plain = Gemma3nForCausalLM.from_pretrained(out / "base")
        plain.save_pretrained(out / "again")
        ours.merge_and_unload().save_pretrained(out / "tuned")
        for kind in ("again", "tuned"):
            found = ml.verify_checkpoint(out / kind, parent, progress=False)
            assert found.kind == {"again": "saved again", "tuned": "tuned"}[kind], found.problems
            print(found.problems[0], file=sys.stderr)
            fixed = ml.write_slices(
                out / kind, "full", out / f"{kind}-fixed", progress=False
            ).folder
            assert ml.verify_checkpoint(fixed, out / kind, progress=False).ok


main(Path(sys.argv[1]))

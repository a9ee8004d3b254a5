"""From a run folder to the package: checkpoint, tasks, figures and card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from training.tiny import check, evaluate, export, slices, tasks, tokenizer, train
from training.tiny.network import Params, Shape
from training.tiny.world import World

LAYERS = range(slices.LAYERS)
# Widths in eighths and the skipped layers of each slice on the card
CARD_SLICES: dict[str, tuple[list[int], tuple[int, ...]]] = {
    "1/8": ([1 for _ in LAYERS], ()),
    "1/4": ([2 for _ in LAYERS], ()),
    "1/2": ([4 for _ in LAYERS], ()),
    "e2b (1/2, layers 20-24 skipped)": ([4 for _ in LAYERS], slices.SKIPPED),
    "1": ([8 for _ in LAYERS], ()),
}


def shape_of(options: dict[str, Any]) -> Shape:
    vocab = tokenizer.build().get_vocab_size()
    return Shape(vocab=vocab, hidden=options["hidden"], ffn=train.PHASES[-1].ffn)


def leading(params: Params, shape: Shape) -> Params:
    """The neurons that the last phase trained as the full width."""
    out = dict(params)
    for name in ("gate_proj", "up_proj"):
        out[f"layers.*.mlp.{name}.weight"] = params[f"layers.*.mlp.{name}.weight"][:, : shape.ffn]
    down = "layers.*.mlp.down_proj.weight"
    out[down] = params[down][:, :, : shape.ffn]
    return out


def export_run(run: Path, out: Path, provisional: bool) -> None:
    state = torch.load(run / "state.pt")
    options = json.loads((run / "options.json").read_text())
    shape = shape_of(options)
    export.write(out / "model", leading(state["params"], shape), shape, tokenizer.build())
    tasks.write(out / "tasks", World.make(options["world"]))
    training = options | {"steps": state["step"], "device": "cpu"}
    facts = {"provisional": provisional, "training": training, "scores": {}}
    export.dump(out / "model" / "tiny.json", facts)


def shipped(out: Path, shape: Shape) -> Params:
    """The exported weights, in fp32: figures are those of the bf16 file, not of the run's state."""
    flat = load_file(out / "model" / "model.safetensors")
    return export.stacks({k: v.float() for k, v in flat.items()}, shape)


def measure_run(run: Path, out: Path, limit: int | None, names: list[str] | None) -> None:
    options = json.loads((run / "options.json").read_text())
    shape = shape_of(options)
    params = shipped(out, shape)
    scorer = evaluate.Scorer(out / "model", out / "tasks", limit)
    facts = json.loads((out / "model" / "tiny.json").read_text())
    for name, (eighths, skipped) in CARD_SLICES.items():
        if names and name not in names:
            continue
        widths = [e * shape.ffn // slices.STEPS for e in eighths]
        outcomes = scorer.score(check.stock(params, shape, widths, skipped))
        facts["scores"][name] = {k: evaluate.summary(v) for k, v in outcomes.items()}
        print(name, json.dumps(facts["scores"][name]), flush=True)
    export.dump(out / "model" / "tiny.json", facts)
    parameters = sum(p.numel() for p in export.tensors(params).values())
    (out / "model" / "README.md").write_text(export.card(facts, shape, parameters))

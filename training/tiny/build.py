"""From a run folder to the package: checkpoint, tasks, figures and card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from training.tiny import export, tasks, text, tokenizer
from training.tiny.figures import Sweep
from training.tiny.network import Shape
from training.tiny.train import BATCH
from training.tiny.world import World


def shape_of(options: dict[str, Any]) -> Shape:
    vocab = tokenizer.build().get_vocab_size()
    return Shape(vocab=vocab, hidden=options["hidden"], ffn=options["ffn"])


def export_run(run: Path, out: Path) -> None:
    state = torch.load(run / "state.pt")
    options = json.loads((run / "options.json").read_text())
    shape = shape_of(options)
    export.write(out / "model", state["params"], shape, tokenizer.build())
    tasks.write(out / "tasks", World.make(options["world"]))
    text.write(out / "text.txt", World.make(options["world"]))
    training = options | {"steps": state["step"], "batch": BATCH, "device": "cpu"}
    facts = {"training": training, "scores": {}}
    export.dump(out / "model" / "tiny.json", facts)


def measure(sweep: Path, out: Path) -> None:
    """Figures of a finished sweep over the exported parent, into its card and on the terminal."""
    measured = Sweep(sweep)
    facts = json.loads((out / "model" / "tiny.json").read_text())
    facts["scores"] = measured.scores()
    export.dump(out / "model" / "tiny.json", facts)
    shape = shape_of(facts["training"])
    parameters = sum(p.numel() for p in load_file(out / "model" / "model.safetensors").values())
    (out / "model" / "README.md").write_text(export.card(facts, shape, parameters))
    print(measured.report())

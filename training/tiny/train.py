"""The training loop: step-based, seeded, resumable."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.tiny import network, slices, tokenizer
from training.tiny.optim import Optimiser, rate
from training.tiny.rows import Ids, Rows
from training.tiny.world import World

BATCH = 16
KINDS = ("walk", "story", "fact", "sweet", "told sweet")


@dataclass(frozen=True)
class Options:
    seed: int = 0
    world: int = 0
    steps: int = 5_000
    decay: int = 2_500
    length: int = 96
    hidden: int = 16
    ffn: int = 64
    adam_lr: float = 3e-3
    muon_lr: float = 0.06
    # Yes and no are a small part of the asked tokens
    answer_weight: float = 3.0
    hint_weight: float = 0.3
    every: int = 250


@dataclass(frozen=True)
class Phase:
    """From `start` on: how many actions of each craft occur, and rows of each of `KINDS`."""

    start: int
    known: int
    shares: tuple[int, int, int, int, int]


# The circuit that looks up a pair of words forms within hundreds of steps on 512 facts and not
# within thousands on 8,192; once there, it takes in more. So the world grows.
PHASES = (
    Phase(0, 1, (10, 0, 0, 3, 3)),
    Phase(400, 2, (10, 0, 0, 5, 1)),
    Phase(600, 4, (10, 0, 0, 5, 1)),
    Phase(900, 8, (8, 2, 2, 3, 1)),
    Phase(1300, 16, (8, 2, 2, 3, 1)),
)


def phase_at(step: int) -> Phase:
    return [phase for phase in PHASES if phase.start <= step][-1]


@dataclass(frozen=True)
class Batch:
    """tokens, targets, hints (B, S); widths in neurons and skips as 0/1 floats (B, L)."""

    tokens: Tensor
    targets: Tensor
    hints: Tensor
    widths: Tensor
    skips: Tensor


class Trainer:
    def __init__(self, options: Options, folder: Path) -> None:
        self.options, self.folder = options, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        tok = tokenizer.build()
        self.shape = network.Shape(
            vocab=tok.get_vocab_size(), hidden=options.hidden, ffn=options.ffn
        )
        self.ids = Ids.of(tok)
        self.rows = Rows(World.make(options.world), self.ids, options.length)
        self.params = {
            k: v.requires_grad_() for k, v in network.init(self.shape, options.seed).items()
        }
        self.network = network.Network(self.shape, compiled=True)
        self.optimiser = Optimiser(self.params, options.adam_lr, options.muon_lr)
        self.substances = torch.from_numpy(np.sort(self.ids.substance))
        self.weight = torch.ones(self.shape.vocab)
        self.weight[self.ids.verdict] = options.answer_weight
        self.step = 0

    def batch(self, step: int) -> Batch:
        """A function of seed and step alone: a resumed run goes on as an unbroken one would."""
        rng = np.random.default_rng((self.options.seed, step))
        phase = phase_at(step)
        parts = [
            self.rows.rows(rng, kind, n, phase.known)
            for kind, n in zip(KINDS, phase.shares, strict=True)
            if n
        ]
        tokens, targets, hints = (
            torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)
        )
        eighths, skips = slices.sample(rng, BATCH)
        widths = torch.from_numpy(eighths * (self.options.ffn // slices.STEPS))
        return Batch(tokens, targets, hints, widths, torch.from_numpy(skips))

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of what is asked, and of the hints among substances alone."""
        hidden = self.network.hidden(self.params, batch.tokens, batch.widths, batch.skips)
        asked = batch.targets >= 0
        logits = network.logits(self.params, self.shape, hidden[asked])
        loss = functional.cross_entropy(logits, batch.targets[asked], weight=self.weight)
        hinted = batch.hints[asked] >= 0
        among = logits[hinted][:, self.substances]
        hints = torch.searchsorted(self.substances, batch.hints[asked][hinted])
        return loss + self.options.hint_weight * functional.cross_entropy(among, hints)

    def run(self) -> None:
        self.resume()
        (self.folder / "options.json").write_text(json.dumps(asdict(self.options), indent=2) + "\n")
        started, total = time.time(), 0.0
        while self.step < self.options.steps:
            loss = self.loss(self.batch(self.step))
            for p in self.params.values():
                p.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(list(self.params.values()), 1.0)
            self.optimiser.step(rate(self.step, self.options.steps, self.options.decay))
            self.step += 1
            total += float(loss.detach())
            if self.step % 50 == 0:
                self.log({"loss": round(total / 50, 4), "seconds": round(time.time() - started)})
                total = 0.0
            if self.step % self.options.every == 0 or self.step == self.options.steps:
                self.log(self.evaluate(4))
                self.save()

    def log(self, record: dict[str, object]) -> None:
        line = json.dumps({"step": self.step} | record)
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def save(self) -> None:
        state = {
            "step": self.step,
            "params": {k: v.detach() for k, v in self.params.items()},
            "optimiser": self.optimiser.state_dict(),
        }
        torch.save(state, self.folder / "state.part")
        (self.folder / "state.part").rename(self.folder / "state.pt")

    def resume(self) -> None:
        path = self.folder / "state.pt"
        if path.exists():
            state = torch.load(path)
            self.step = state["step"]
            with torch.no_grad():
                for k, v in state["params"].items():
                    self.params[k].copy_(v)
            self.optimiser.load_state_dict(state["optimiser"])

    def evaluate(self, batches: int) -> dict[str, object]:
        """Accuracy in per cent by width on what the current phase knows: the next substance (1 of
        64) in walks, stories and facts, then sweet or not (1 of 2), its outcome left out or told.

        Runs with gradients on and drops them: turning them off would compile every kind of layer a
        second time.
        """
        out: dict[str, object] = {}
        known = phase_at(self.step - 1).known
        mixed = np.random.default_rng(98).choice([1, 2, 4, 8], size=(BATCH, slices.LAYERS))
        for name, eighths, skip in (
            ("1/8", 1, 0), ("1/4", 2, 0), ("1/2", 4, 0), ("e2b", 4, 1), ("1", 8, 0),
            ("mix", mixed, 0),
        ):  # fmt: skip
            every = np.broadcast_to(np.asarray(eighths), (BATCH, slices.LAYERS))
            widths = torch.from_numpy(every * (self.options.ffn // slices.STEPS))
            skips = torch.zeros(BATCH, slices.LAYERS)
            skips[:, list(slices.SKIPPED)] = float(skip)
            scores = []
            for kind in KINDS:
                rng = np.random.default_rng((99, KINDS.index(kind)))
                choices = self.ids.verdict if "sweet" in kind else self.ids.substance
                right = []
                for _ in range(batches):
                    drawn = self.rows.rows(rng, kind, BATCH, known)
                    x, y, _hints = map(torch.from_numpy, drawn)
                    hidden = self.network.hidden(self.params, x, widths, skips)
                    asked = torch.isin(y, torch.from_numpy(choices))
                    logits = network.logits(self.params, self.shape, hidden[asked]).detach()
                    guess = torch.from_numpy(choices)[logits[:, choices].argmax(-1)]
                    right.append(guess == y[asked])
                scores.append(round(100 * float(torch.cat(right).float().mean()), 1))
            out[name] = scores
        return out

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
KINDS = (
    "story",
    "verdict",
    "choice",
    "told verdict",
    "told choice",
    "long",
    "told sweet",
    "fact",
)


@dataclass(frozen=True)
class Options:
    seed: int = 0
    world: int = 0
    steps: int = 3_500
    length: int = 96
    ffn: int = 64
    hidden: int = 32
    adam_lr: float = 3e-3
    muon_lr: float = 0.04
    # Answers are a small part of the asked tokens and the harder skill
    answer_weight: float = 3.0
    every: int = 500


@dataclass(frozen=True)
class Phase:
    """From `start` on: rows of each of `KINDS` in a batch of 16, and a factor on Muon's rate."""

    start: int
    shares: tuple[int, int, int, int, int, int, int, int]
    muon: float


PHASES = (
    # Drill verdicts and letters with the outcome stated in the text, until they are certain
    Phase(0, (3, 1, 1, 3, 8, 0, 0, 0), 0.5),
    # Learn the facts, many to a row; the circuit that looks a pair up forms by step 2,200 or so
    Phase(1000, (3, 2, 2, 1, 1, 7, 0, 0), 1.0),
    Phase(1500, (3, 2, 2, 1, 1, 7, 0, 0), 0.5),
    # The facts again, now in the very formats of the tasks
    Phase(2000, (3, 0, 0, 0, 0, 8, 3, 2), 1.0),
)


def phase_at(step: int) -> Phase:
    return [phase for phase in PHASES if phase.start <= step][-1]


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
        self.weight = torch.ones(self.shape.vocab)
        self.weight[np.concatenate((self.ids.letter, self.ids.verdict))] = options.answer_weight
        self.step = 0

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A function of seed and step alone: a resumed run goes on as an unbroken one would."""
        rng = np.random.default_rng((self.options.seed, step))
        shares = zip(KINDS, phase_at(step).shares, strict=True)
        parts = [self.rows.rows(rng, kind, n) for kind, n in shares if n]
        x, y = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        eighths, skips = slices.sample(rng, len(x))
        widths = torch.from_numpy(eighths * (self.options.ffn // slices.STEPS))
        return torch.from_numpy(x), torch.from_numpy(y), widths, torch.from_numpy(skips)

    def loss(self, x: Tensor, y: Tensor, widths: Tensor, skips: Tensor) -> Tensor:
        hidden = self.network.hidden(self.params, x, widths, skips)
        asked = y >= 0
        logits = network.logits(self.params, self.shape, hidden[asked])
        return functional.cross_entropy(logits, y[asked], weight=self.weight)

    def run(self) -> None:
        self.resume()
        (self.folder / "options.json").write_text(json.dumps(asdict(self.options), indent=2) + "\n")
        started, total = time.time(), 0.0
        while self.step < self.options.steps:
            loss = self.loss(*self.batch(self.step))
            for p in self.params.values():
                p.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(list(self.params.values()), 1.0)
            self.optimiser.muon_lr = self.options.muon_lr * phase_at(self.step).muon
            self.optimiser.step(rate(self.step))
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
        """Training-format accuracy in per cent by width: facts (1 of 64), verdicts (1 of 2),
        letters (1 of 4).

        Runs with gradients on and drops them: turning them off would compile every kind of layer a
        second time.
        """
        out: dict[str, object] = {}
        for name, eighths, skip in (
            ("1/8", 1, 0), ("1/4", 2, 0), ("1/2", 4, 0), ("e2b", 4, 1), ("1", 8, 0)
        ):  # fmt: skip
            widths = torch.full((BATCH, 35), eighths * (self.options.ffn // slices.STEPS))
            skips = torch.zeros(BATCH, 35)
            skips[:, list(slices.SKIPPED)] = float(skip)
            scores = []
            for kind, choices in (
                ("story", self.ids.substance), ("cloze", self.ids.substance),
                ("fact", self.ids.substance),
                ("told choice", self.ids.letter), ("sweet", self.ids.verdict),
                ("told sweet", self.ids.verdict),
            ):  # fmt: skip
                rng = np.random.default_rng((99, KINDS.index(kind)))
                right = []
                for _ in range(batches if "told" not in kind else 1):
                    x, y = map(torch.from_numpy, self.rows.rows(rng, kind, BATCH))
                    hidden = self.network.hidden(self.params, x, widths, skips)
                    asked = torch.isin(y, torch.from_numpy(choices))
                    logits = network.logits(self.params, self.shape, hidden[asked]).detach()
                    guess = torch.from_numpy(choices)[logits[:, choices].argmax(-1)]
                    right.append(guess == y[asked])
                scores.append(round(100 * float(torch.cat(right).float().mean()), 1))
            out[name] = scores
        return out

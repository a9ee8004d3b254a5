"""The optimiser: Muon for the layers' large matrices, Adam for everything else, both with a linear
warm-up and decay.

Muon (Keller Jordan, 2024) orthogonalises the momentum of a matrix by five Newton-Schulz iterations.
Its equalised updates learn rare associations faster than Adam's, and this world is made of nothing
else.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.tiny.network import Params

MATRICES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def orthogonalise(stack: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrix of each matrix of (L, rows, columns), roughly (singular values
    0.7 to 1.2).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = stack.shape[-2] > stack.shape[-1]
    x = stack.mT if tall else stack
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = x.mT if tall else x
    return out


# (step, factor on both learning rates), straight lines between: warm-up, flat, decay
RATES = ((0, 0.005), (199, 1.0), (3000, 1.0), (3500, 0.01))


def rate(step: int) -> float:
    steps, factors = zip(*RATES, strict=True)
    return float(np.interp(step, steps, factors))


class Optimiser:
    def __init__(self, params: Params, adam_lr: float, muon_lr: float) -> None:
        self.params = params
        self.matrices = [k for k in params if any(m in k for m in MATRICES)] if muon_lr else []
        self.muon_lr = muon_lr
        self.momentum = {k: torch.zeros_like(params[k]) for k in self.matrices}
        rest = [p for k, p in params.items() if k not in self.momentum]
        self.adam = torch.optim.AdamW(
            rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        self.adam_lr = adam_lr

    def step(self, factor: float) -> None:
        self.adam.param_groups[0]["lr"] = self.adam_lr * factor
        self.adam.step()
        with torch.no_grad():
            for name in self.matrices:
                weight, momentum = self.params[name], self.momentum[name]
                assert weight.grad is not None
                momentum.lerp_(weight.grad, 0.05)
                update = orthogonalise(weight.grad.lerp(momentum, 0.95))
                rows, columns = weight.shape[-2:]
                weight.sub_(update, alpha=self.muon_lr * factor * max(1.0, rows / columns) ** 0.5)

    def state_dict(self) -> dict[str, object]:
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.adam.load_state_dict(state["adam"])  # type: ignore[arg-type]
        self.momentum = state["momentum"]  # type: ignore[assignment]

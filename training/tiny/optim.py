"""The optimiser: Muon for the layers' large matrices, Adam for everything else, both with a linear
warm-up and decay.

Muon (Keller Jordan, 2024) orthogonalises the momentum of a matrix by five Newton-Schulz iterations.
Its equalised updates learn rare associations faster than Adam's, and this world is made of nothing
else. An FFN's matrices are orthogonalised shell by shell (the neurons that 1/8 has, those that 1/4
adds, ...): as one matrix, the neurons that every slice trains would take nearly all of the update
from those that only the wide ones do.
"""

from __future__ import annotations

from itertools import pairwise

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


# The nested shells of an FFN, in eighths of its width
SHELLS = (0, 1, 2, 4, 8)


def shells(name: str, stack: Tensor) -> list[Tensor]:
    """Views of a stack of FFN matrices by nested shell; of any other stack, itself."""
    if "mlp" not in name:
        return [stack]
    axis = -1 if "down_proj" in name else -2
    eighth = stack.shape[axis] // SHELLS[-1]
    return [stack.narrow(axis, a * eighth, (b - a) * eighth) for a, b in pairwise(SHELLS)]


def rate(step: int, steps: int, decay: int) -> float:
    """Factor on both learning rates: a warm-up of 100 steps, flat, linear over the last `decay`."""
    return min(1.0, (step + 1) / 100, max(0.01, (steps - step) / decay))


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
                update = weight.grad.lerp(momentum, 0.95)
                for part, towards in zip(shells(name, weight), shells(name, update), strict=True):
                    rows, columns = part.shape[-2:]
                    scale = self.muon_lr * factor * max(1.0, rows / columns) ** 0.5
                    part.sub_(orthogonalise(towards), alpha=scale)

    def state_dict(self) -> dict[str, object]:
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.adam.load_state_dict(state["adam"])  # type: ignore[arg-type]
        self.momentum = state["momentum"]  # type: ignore[assignment]

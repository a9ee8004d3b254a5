"""The FFN in pieces against transformers' own, token by token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma3nTextConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP

from matformer_lab import piecewise_mlp
from matformer_lab.piecewise_mlp import PiecewiseMLP


def pair(width: int, sparsity: float) -> tuple[PiecewiseMLP, Gemma3nTextMLP]:
    config = Gemma3nTextConfig(
        num_hidden_layers=1,
        hidden_size=8,
        intermediate_size=[width],
        activation_sparsity_pattern=[sparsity],
        layer_types=["full_attention"],
        num_kv_shared_layers=0,
    )
    torch.manual_seed(width)
    stock = Gemma3nTextMLP(config, 0).double()
    ours = PiecewiseMLP(config, 0).double()
    ours.load_state_dict(stock.state_dict())
    return ours, stock


@given(
    rows=st.integers(1, 3),
    tokens=st.integers(1, 12),
    width=st.sampled_from([1, 5, 32]),
    sparsity=st.sampled_from([0.0, 0.95]),
    at_once=st.integers(0, 40),
)
def test_every_token_gets_what_it_gets_alone(
    rows: int, tokens: int, width: int, sparsity: float, at_once: int
) -> None:
    ours, stock = pair(width, sparsity)
    hidden = torch.randn(rows, tokens, 8, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(piecewise_mlp, "PIECE_BYTES", at_once * 4 * width * 8)
        together = ours(hidden)
        alone = torch.stack([torch.cat([stock(token[None]) for token in row]) for row in hidden])
    assert together.shape == hidden.shape
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_no_piece_is_larger_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair(32, 0.95)
    monkeypatch.setattr(piecewise_mlp, "PIECE_BYTES", 5 * 4 * 32 * 8)
    seen: list[int] = []
    ours.gate_proj.register_forward_hook(lambda *call: seen.append(call[2].shape[0]))
    ours(torch.randn(3, 4, 8, dtype=torch.float64))
    assert seen == [5, 5, 2]

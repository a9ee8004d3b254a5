"""The FFN in pieces against transformers' own, token by token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma3nTextConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP

from matformer_lab.scoring import piecewise_mlp
from matformer_lab.scoring.piecewise_mlp import in_pieces

SPARSITY = st.sampled_from([0.0, 0.6, 0.95])


def stock_mlp(width: int, sparsity: float, dtype: torch.dtype = torch.float64) -> Gemma3nTextMLP:
    config = Gemma3nTextConfig(
        num_hidden_layers=1,
        hidden_size=8,
        intermediate_size=[width],
        activation_sparsity_pattern=[sparsity],
        layer_types=["full_attention"],
        num_kv_shared_layers=0,
    )
    torch.manual_seed(width)
    return Gemma3nTextMLP(config, 0).to(dtype)


@given(
    rows=st.integers(1, 3),
    tokens=st.integers(1, 12),
    width=st.sampled_from([1, 5, 32]),
    sparsity=SPARSITY,
    at_once=st.integers(0, 40),
)
def test_every_token_gets_what_it_gets_alone(
    rows: int, tokens: int, width: int, sparsity: float, at_once: int
) -> None:
    mlp = stock_mlp(width, sparsity)
    hidden = torch.randn(rows, tokens, 8, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(piecewise_mlp, "PIECE_BYTES", at_once * 4 * width * 8)
        with in_pieces(mlp):
            together = mlp(hidden)
        alone = torch.stack([torch.cat([mlp(token[None]) for token in row]) for row in hidden])
    assert together.shape == hidden.shape
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


@given(
    tokens=st.integers(1, 40),
    width=st.sampled_from([1, 5, 32]),
    sparsity=SPARSITY,
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_one_piece_is_the_stock_ffn_to_the_bit(
    tokens: int, width: int, sparsity: float, dtype: torch.dtype
) -> None:
    mlp = stock_mlp(width, sparsity, dtype)
    hidden = torch.randn(1, tokens, 8, dtype=dtype)
    with torch.no_grad():
        with in_pieces(mlp):
            ours = mlp(hidden)
        assert torch.equal(ours, mlp(hidden))


def test_no_piece_is_larger_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = stock_mlp(32, 0.95)
    monkeypatch.setattr(piecewise_mlp, "PIECE_BYTES", 5 * 4 * 32 * 8)
    seen: list[int] = []
    mlp.gate_proj.register_forward_hook(lambda *call: seen.append(call[2].shape[0]))
    with in_pieces(mlp):
        mlp(torch.randn(3, 4, 8, dtype=torch.float64))
    assert seen == [5, 5, 2]


def test_afterwards_it_is_the_stock_ffn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's own backend works on the same live models, and must not see ours."""
    mlp = stock_mlp(32, 0.95)
    monkeypatch.setattr(piecewise_mlp, "PIECE_BYTES", 0)
    with pytest.raises(RuntimeError), in_pieces(mlp):
        mlp(torch.zeros(3, 7, dtype=torch.float64))  # not hidden_size
    assert "forward" not in vars(mlp)
    hooked = mlp.forward  # as hooks do it
    mlp.forward = hooked  # type: ignore[method-assign]
    with in_pieces(mlp):
        assert mlp.forward is not hooked
    assert mlp.forward is hooked
    del mlp.forward
    seen: list[int] = []
    mlp.gate_proj.register_forward_hook(lambda *call: seen.append(call[2].shape[0]))
    mlp(torch.zeros(3, 8, dtype=torch.float64))
    assert seen == [3]

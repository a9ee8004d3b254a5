"""The packed forward against transformers' own forward, one unpacked request at a time."""

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextDecoderLayer

from matformer_lab.common.errors import InputError
from matformer_lab.scoring import lm_head
from matformer_lab.scoring.batches.packing import Request, pack
from matformer_lab.scoring.packed_forward import PackedForward, check_transformers
from matformer_lab.scoring.per_layer_inputs import PerLayerInputFetcher

PICO: dict[str, Any] = {
    "vocab_size": 40,
    "vocab_size_per_layer_input": 36,  # some ids are not in the per-layer table, as in E4B
    "hidden_size": 32,
    "hidden_size_per_layer_input": 8,
    "intermediate_size": [64, 48, 64, 32, 64, 16, 64, 64],
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_kv_shared_layers": 3,
    "laurel_rank": 4,
    "sliding_window": 5,
    "activation_sparsity_pattern": [0.9, 0.9, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0],
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


@cache
def model(**changes: Any) -> Gemma3nForCausalLM:
    torch.manual_seed(0)
    built = Gemma3nForCausalLM(Gemma3nTextConfig(**{**PICO, **changes}))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    built.train(False)
    return built


def unpacked(model: Gemma3nForCausalLM, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probability of each target, whether it is the most likely token)."""
    with torch.no_grad():
        logits = model(torch.tensor([request.inputs])).logits[0, -len(request.targets) :]
    scores = logits.float().log_softmax(-1)
    targets = torch.tensor(request.targets)
    return scores[range(len(targets)), targets], scores.argmax(-1) == targets


@torch.no_grad()
def packed(
    model: Gemma3nForCausalLM, requests: list[Request], batch_tokens: int, attention_cost: float
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found: list[dict[int, tuple[torch.Tensor, torch.Tensor]]] = [{} for _ in requests]
    layers = model.config.num_hidden_layers
    for batch in pack(requests, batch_tokens=batch_tokens, attention_cost=attention_cost):
        forward = PackedForward(model, batch, PerLayerInputFetcher(model).fetch(batch))
        here = forward.begin()
        for layer in range(layers):
            here = forward.advance(model, here, layer)
        scores, greedy = forward.read(model, here)
        slots = batch.scored.shape[1]
        for n, request in enumerate(batch.request.tolist()):
            row, slot = divmod(int(batch.slot[n]), slots)
            depth = int(batch.depth[row, batch.scored[row, slot]])
            found[request][depth] = scores[n], greedy[n]
    in_order = [[each[depth] for depth in sorted(each)] for each in found]
    return [
        (torch.stack([s for s, _ in each]), torch.stack([g for _, g in each])) for each in in_order
    ]


# Few distinct tokens, so that prefixes are shared; long enough for the window of 5 to bind.
TOKENS = st.lists(st.sampled_from([3, 4, 39]), min_size=1, max_size=14)
REQUESTS = st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=12).map(
    lambda pairs: [Request.of([2, *context], targets, 20) for context, targets in pairs]
)


@settings(max_examples=25)
@given(
    REQUESTS,
    st.sampled_from([1, 30, 400]),
    st.sampled_from([0.0, 0.02, 10.0]),
    st.sampled_from(
        [
            {},
            {"num_kv_shared_layers": 0},
            {"altup_num_inputs": 2, "final_logit_softcapping": 2.0},
            {"sliding_window": 64, "altup_correct_scale": False},
        ]
    ),
)
def test_equals_transformers_one_request_at_a_time(
    requests: list[Request], batch_tokens: int, attention_cost: float, changes: dict[str, Any]
) -> None:
    pico = model(**changes)
    scored = packed(pico, requests, batch_tokens, attention_cost)
    for request, (scores, greedy) in zip(requests, scored, strict=True):
        expected, expected_greedy = unpacked(pico, request)
        torch.testing.assert_close(scores, expected, atol=2e-5, rtol=1e-5)
        assert torch.equal(greedy, expected_greedy)


def test_logits_are_made_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [Request.of([2, 3, n], [4, 3, 3, n, 5], 20) for n in range(3, 20)]
    whole = packed(model(), requests, 400, 0.0)
    monkeypatch.setattr(lm_head, "LOGITS_AT_ONCE", 3 * 40)
    parts = packed(model(), requests, 400, 0.0)
    for (scores, greedy), (expected, expected_greedy) in zip(parts, whole, strict=True):
        torch.testing.assert_close(scores, expected)
        assert torch.equal(greedy, expected_greedy)


def test_layers_that_reuse_keys_run_on_scored_tokens_only() -> None:
    requests = [Request.of([2, *range(3, 33)], [n], 60) for n in (3, 4, 5)]
    seen: list[int] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2]))
        for layer in model().model.layers
    ]
    packed(model(), requests, 400, 0.0)
    for hook in hooks:
        hook.remove()
    assert seen == [31] * 5 + [1] * 3


def test_older_transformers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_transformers()

    def forward(self: Any, hidden_states: Any, past_key_values: Any = None) -> None:
        """As in transformers 5.5, which hands K/V on in the cache."""

    monkeypatch.setattr(Gemma3nTextDecoderLayer, "forward", forward)
    with pytest.raises(InputError, match=r"transformers 5\.6 or newer"):
        check_transformers()


def test_bf16_is_no_further_from_fp32_than_transformers_is() -> None:
    # The same rounded weights in both, so that only the arithmetic differs.
    half = model(hidden_activation="gelu_pytorch_tanh").bfloat16()
    full = Gemma3nForCausalLM(half.config).train(False)
    full.load_state_dict({k: v.float() for k, v in half.state_dict().items()})
    generator = torch.Generator().manual_seed(1)
    requests = [
        Request.of([2, *torch.randint(3, 40, (12,), generator=generator).tolist()], [n, 4, 7], 40)
        for n in range(3, 38)
    ]
    truth = torch.cat([unpacked(full, request)[0] for request in requests])
    theirs = torch.cat([unpacked(half, request)[0] for request in requests])
    ours = torch.cat([scores for scores, _ in packed(half, requests, 400, 0.0)])
    assert (ours - truth).abs().mean() <= 1.1 * (theirs - truth).abs().mean()

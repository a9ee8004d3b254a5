"""Gemma 3n's text decoder as plain functions over a dict of tensors, for training many nested
slices in one batch.

The mathematics is that of `transformers` 5's `Gemma3nForCausalLM` (checked against it by `python -m
training.tiny check`). What differs is how a slice is expressed: instead of cutting weights, every
row of a batch carries its own FFN width and skip flag per layer, and the forward masks the FFN
neurons past that width. Masking equals slicing exactly, in the sparse layers too, because their
mean and deviation are taken over the row's own width. So one batch trains dozens of slices at the
cost of one full model.

Shapes: B rows, S tokens, H hidden size, W full FFN width, P per-layer-input size, L layers, V
vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn import functional

Params = dict[str, Tensor]

# Standard normal quantile of 0.95, the factor Gemma 3n's sparse layers put on the deviation of
# their gate.
SPARSITY = 0.95
SPARSITY_Z = NormalDist().inv_cdf(SPARSITY)
NEGATIVE = -1e9


@dataclass(frozen=True)
class Shape:
    """Sizes of the miniature; the layer structure is that of Gemma 3n E4B."""

    vocab: int
    hidden: int = 16
    ffn: int = 64
    heads: int = 2
    head_dim: int = 8
    per_layer: int = 4
    laurel: int = 2
    window: int = 16
    layers: int = 35
    kv_shared: int = 15
    sparse: int = 10
    streams: int = 4
    pattern: int = 5
    rope_full: float = 1_000_000.0
    rope_sliding: float = 10_000.0
    eps: float = 1e-6
    softcap: float = 30.0

    def is_full(self, layer: int) -> bool:
        """Every fifth layer (4, 9, 14, ...) attends to everything, the others to a window."""
        return layer % self.pattern == self.pattern - 1

    @property
    def first_shared(self) -> int:
        return self.layers - self.kv_shared


def init(shape: Shape, seed: int) -> Params:
    """Fan-in initialisation in fp32.

    Names are the checkpoint's less the `model.` prefix; a tensor that every layer has is one stack
    (L, ...) named `layers.*.<name>`, so that an optimiser step handles forty tensors and not nine
    hundred.
    """
    g = torch.Generator().manual_seed(seed)
    h, p, d = shape.hidden, shape.per_layer, shape.head_dim

    def dense(rows: int, columns: int, scale: float = 1.0) -> Tensor:
        return torch.randn(rows, columns, generator=g) * scale / math.sqrt(columns)

    out: Params = {
        "embed_tokens.weight": torch.randn(shape.vocab, h, generator=g) / math.sqrt(h),
        "embed_tokens_per_layer.weight": torch.randn(shape.vocab, shape.layers * p, generator=g)
        / math.sqrt(p),
        "per_layer_model_projection.weight": dense(shape.layers * p, h),
        "per_layer_projection_norm.weight": torch.ones(p),
        "norm.weight": torch.ones(h),
    }
    for i in range(shape.streams - 1):
        out[f"altup_projections.{i}.weight"] = dense(h, h)
        out[f"altup_unembed_projections.{i}.weight"] = dense(h, h)
    layers: list[Params] = []
    for _ in range(shape.layers):
        layer: Params = {
            "self_attn.q_proj.weight": dense(shape.heads * d, h),
            "self_attn.k_proj.weight": dense(d, h),
            "self_attn.v_proj.weight": dense(d, h),
            "self_attn.o_proj.weight": dense(h, shape.heads * d),
            "self_attn.q_norm.weight": torch.ones(d),
            "self_attn.k_norm.weight": torch.ones(d),
            "mlp.gate_proj.weight": dense(shape.ffn, h),
            "mlp.up_proj.weight": dense(shape.ffn, h),
            "mlp.down_proj.weight": dense(h, shape.ffn),
            "laurel.linear_left.weight": dense(shape.laurel, h),
            "laurel.linear_right.weight": dense(h, shape.laurel),
            "altup.modality_router.weight": dense(shape.streams, h),
            "altup.prediction_coefs.weight": dense(shape.streams**2, shape.streams, 0.1),
            "altup.correction_coefs.weight": dense(shape.streams, shape.streams, 0.1),
            # transformers starts this at zero, which starves the RMSNorm of the per-layer inputs of
            # gradient
            "altup.correct_output_scale": torch.ones(h),
            "altup.router_norm.weight": torch.ones(h),
            "per_layer_input_gate.weight": dense(p, h),
            "per_layer_projection.weight": dense(h, p),
        }
        for norm, gain in NORMS.items():
            # Residual branches start small, so that 35 layers start close to the identity
            layer[f"{norm}.weight"] = torch.full((h,), gain)
        layers.append(layer)
    return out | {
        f"layers.*.{name}": torch.stack([x[name] for x in layers]) for name in LAYER_NAMES
    }


NORMS = {
    "input_layernorm": 1.0,
    "pre_feedforward_layernorm": 1.0,
    "post_attention_layernorm": 0.3,
    "post_feedforward_layernorm": 0.3,
    "post_per_layer_input_norm": 0.1,
    "laurel.post_laurel_norm": 0.3,
}

LAYER_NAMES = (
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "self_attn.q_norm.weight",
    "self_attn.k_norm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "laurel.linear_left.weight",
    "laurel.linear_right.weight",
    "laurel.post_laurel_norm.weight",
    "altup.modality_router.weight",
    "altup.prediction_coefs.weight",
    "altup.correction_coefs.weight",
    "altup.correct_output_scale",
    "altup.router_norm.weight",
    "per_layer_input_gate.weight",
    "per_layer_projection.weight",
    "input_layernorm.weight",
    "pre_feedforward_layernorm.weight",
    "post_attention_layernorm.weight",
    "post_feedforward_layernorm.weight",
    "post_per_layer_input_norm.weight",
)


def rms(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return y if weight is None else y * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (B, S, heads, D) with (S, 1, D) tables."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotary(shape: Shape, length: int, theta: float) -> tuple[Tensor, Tensor]:
    exponent = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angle = torch.arange(length, dtype=torch.float32)[:, None] / theta**exponent
    angle = torch.cat((angle, angle), dim=-1)[:, None, :]
    return angle.cos(), angle.sin()


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention: q (B, S, N, D), k and v (B, S, D) shared by all N heads."""
    b, s, n, d = q.shape
    scores = torch.matmul(q.transpose(1, 2).reshape(b, n * s, d), k.transpose(1, 2))
    causal = torch.ones(s, s, dtype=torch.bool).tril()
    scores = scores.view(b, n, s, s).masked_fill(~causal, NEGATIVE)
    out = torch.matmul(scores.softmax(-1).view(b, n * s, s), v)
    return out.view(b, n, s, d).transpose(1, 2).reshape(b, s, n * d)


def window_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Sliding-window attention in blocks of one window: a block sees itself and the one before. S %
    window == 0.
    """
    b, s, n, d = q.shape
    m, w = s // window, window

    def pairs(x: Tensor) -> Tensor:
        blocks = x.reshape(b, m, w, d)
        before = functional.pad(blocks, (0, 0, 0, 0, 1, 0))[:, :-1]
        return torch.cat((before, blocks), dim=2).reshape(b * m, 2 * w, d)

    query = q.view(b, m, w, n, d).transpose(2, 3).reshape(b * m, n * w, d)
    scores = torch.matmul(query, pairs(k).transpose(1, 2)).view(b, m, n, w, 2 * w)
    i, j = torch.arange(w)[:, None] + w, torch.arange(2 * w)[None, :]
    seen = (j <= i) & (j > i - w)
    first = (torch.arange(m) == 0)[:, None, None, None] & (j < w)
    scores = scores.masked_fill(~seen | first, NEGATIVE)
    out = torch.matmul(scores.softmax(-1).view(b * m, n * w, 2 * w), pairs(v))
    return out.view(b, m, n, w, d).transpose(2, 3).reshape(b, s, n * d)


def router(x: Tensor, norm: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.tanh(functional.linear(rms(x, norm, eps) / x.shape[-1], weight))


def layer_forward(
    streams: tuple[Tensor, ...],
    per_layer_input: Tensor,
    width: Tensor,
    skip: Tensor,
    cos: Tensor,
    sin: Tensor,
    weights: tuple[Tensor, ...],
    shared: tuple[Tensor, Tensor] | None,
    window: int | None,
    sparse: bool,
    eps: float,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]]:
    """One decoder layer.

    streams: four (B, S, H) AltUp streams, the first active; per_layer_input (B, S, P); width (B,)
    FFN neurons in use; skip (B,) 1.0 where a row leaves this layer out; shared: keys and values to
    reuse; window None = full attention. Returns the new streams and this layer's keys and values.
    """
    (
        q_w,
        k_w,
        v_w,
        o_w,
        qn,
        kn,
        gate_w,
        up_w,
        down_w,
        left,
        right,
        laurel_n,
        route_w,
        predict_w,
        correct_w,
    ) = weights[:15]
    (scale, route_n, ple_gate, ple_out, norm_in, norm_ffn, norm_attn, norm_ffn_out, norm_ple) = (
        weights[15:]
    )
    b, s, _ = streams[0].shape
    d = qn.shape[0]
    n = len(streams)

    coefs = functional.linear(router(streams[0], route_n, route_w, eps), predict_w)
    predicted = [
        x + sum(coefs[..., j * n + i : j * n + i + 1] * streams[i] for i in range(n))
        for j, x in enumerate(streams)
    ]
    active = predicted[0]
    x = rms(active, norm_in, eps)
    laurel = x + rms(functional.linear(functional.linear(x, left), right), laurel_n, eps)

    q = rotate(rms(functional.linear(x, q_w).view(b, s, -1, d), qn, eps), cos, sin)
    if shared is None:
        k = rotate(rms(functional.linear(x, k_w).view(b, s, 1, d), kn, eps), cos, sin).view(b, s, d)
        v = rms(functional.linear(x, v_w), None, eps)
    else:
        k, v = shared
    mixed = full_attention(q, k, v) if window is None else window_attention(q, k, v, window)
    attended = rms(functional.linear(mixed, o_w), norm_attn, eps)
    residual = (active + attended + laurel) / math.sqrt(2)

    x = rms(residual, norm_ffn, eps)
    gate = functional.linear(x, gate_w)
    used = (torch.arange(gate.shape[-1]) < width[:, None, None]).to(gate.dtype)
    if sparse:
        count = width[:, None, None].to(gate.dtype)
        mean = (gate * used).sum(-1, keepdim=True) / count
        variance = ((gate - mean).pow(2) * used).sum(-1, keepdim=True) / count
        gate = functional.relu(gate - (mean + SPARSITY_Z * torch.sqrt(variance + 1e-12)))
    hidden = functional.gelu(gate, approximate="tanh") * functional.linear(x, up_w) * used
    activated = residual + rms(functional.linear(hidden, down_w), norm_ffn_out, eps)

    correction = functional.linear(router(activated, route_n, route_w, eps), correct_w) + 1.0
    innovation = activated - active
    corrected = [p + innovation * correction[..., i : i + 1] for i, p in enumerate(predicted)]

    first = (
        functional.gelu(functional.linear(corrected[0] * scale, ple_gate), approximate="tanh")
        * per_layer_input
    )
    first = rms(functional.linear(first, ple_out), norm_ple, eps)
    new = [corrected[0], *(c + first for c in corrected[1:])]
    left_out = skip[:, None, None]
    return tuple(x + (1.0 - left_out) * (y - x) for x, y in zip(streams, new, strict=True)), (k, v)


def embed(params: Params, shape: Shape, ids: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Token ids (B, S) to the four streams and the per-layer inputs (B, S, L, P)."""
    x = functional.embedding(ids, params["embed_tokens.weight"]) * shape.hidden**0.5
    table = (
        functional.embedding(ids, params["embed_tokens_per_layer.weight"]) * shape.per_layer**0.5
    )
    projected = (
        functional.linear(x, params["per_layer_model_projection.weight"]) * shape.hidden**-0.5
    )
    cut = (*ids.shape, shape.layers, shape.per_layer)
    projected = rms(projected.view(cut), params["per_layer_projection_norm.weight"], shape.eps)
    magnitude = x.pow(2).mean(-1, keepdim=True).sqrt()
    streams = [x]
    for i in range(shape.streams - 1):
        streams.append(
            rescale(functional.linear(x, params[f"altup_projections.{i}.weight"]), magnitude)
        )
    return tuple(streams), (projected + table.view(cut)) * 2**-0.5


def rescale(x: Tensor, magnitude: Tensor) -> Tensor:
    return x * magnitude / x.pow(2).mean(-1, keepdim=True).clamp(min=1e-5).sqrt()


def merge(params: Params, shape: Shape, streams: tuple[Tensor, ...]) -> Tensor:
    """Four streams to the final normed hidden state (B, S, H)."""
    magnitude = streams[0].pow(2).mean(-1, keepdim=True).sqrt()
    total = streams[0]
    for i in range(shape.streams - 1):
        weight = params[f"altup_unembed_projections.{i}.weight"]
        total = total + rescale(functional.linear(streams[i + 1], weight), magnitude)
    return rms(total / shape.streams, params["norm.weight"], shape.eps)


def logits(params: Params, shape: Shape, hidden: Tensor) -> Tensor:
    x = functional.linear(hidden, params["embed_tokens.weight"])
    return torch.tanh(x / shape.softcap) * shape.softcap


class Network:
    """The forward over all layers, each layer compiled once per kind when `compiled` is set."""

    def __init__(self, shape: Shape, compiled: bool) -> None:
        self.shape = shape
        # Layers come in six kinds: full or sliding; sparse, dense, or with shared keys and values
        torch._dynamo.config.recompile_limit = 32
        self.layer = torch.compile(layer_forward, dynamic=False) if compiled else layer_forward
        self.embed = torch.compile(embed, dynamic=False) if compiled else embed
        self.merge = torch.compile(merge, dynamic=False) if compiled else merge
        self.tables: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}

    def rotary(self, length: int, full: bool) -> tuple[Tensor, Tensor]:
        if (length, full) not in self.tables:
            theta = self.shape.rope_full if full else self.shape.rope_sliding
            self.tables[length, full] = rotary(self.shape, length, theta)
        return self.tables[length, full]

    def hidden(self, params: Params, ids: Tensor, widths: Tensor, skips: Tensor) -> Tensor:
        """The final hidden state (B, S, H).

        ids: (B, S); widths: (B, L) in neurons; skips: (B, L) as 0/1 floats.
        """
        shape = self.shape
        streams, inputs = self.embed(params, shape, ids)
        # One unbind, so that the backward pass writes the gradient of all layers' inputs once
        # instead of L times
        per_layer = inputs.unbind(2)
        stacks = [params[f"layers.*.{name}"].unbind(0) for name in LAYER_NAMES]
        kept: dict[bool, tuple[Tensor, Tensor]] = {}
        for n in range(shape.layers):
            full = shape.is_full(n)
            cos, sin = self.rotary(ids.shape[1], full)
            weights = tuple(stack[n] for stack in stacks)
            streams, produced = self.layer(
                streams,
                per_layer[n],
                widths[:, n],
                skips[:, n],
                cos,
                sin,
                weights,
                kept[full] if n >= shape.first_shared else None,
                None if full else shape.window,
                n < shape.sparse,
                shape.eps,
            )
            if n < shape.first_shared:
                kept[full] = produced
        return self.merge(params, shape, streams)

"""One packed batch through Gemma 3n, layer by layer, so that several slices can share layers.

The steps are those of `Gemma3nTextModel.forward` in transformers 5.6 and up, with two savings that
are exact:

- From the first layer that reuses earlier K/V on, a token's activations no longer reach any other
  token, so only the tokens whose prediction is scored go on.
- The LM head runs on scored tokens only, a bounded number of logits at a time.

The projection of the embeddings to per-layer inputs runs layer by layer, not for all layers at
once: which layers a slice skips then cannot change the rounding of the ones it keeps.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import LongTensor, Tensor
from torch.nn.functional import linear, log_softmax

from matformer_lab.elastic import KeptPerLayerEmbedding, send
from matformer_lab.errors import InputError
from matformer_lab.packing import Batch

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextModel

LAYER_TYPES = ("full_attention", "sliding_attention")
# Logits held at once: 2^26 are 256 MiB in fp32, 256 tokens of Gemma's vocabulary.
LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True)
class Tokens:
    """The tokens that a layer computes: all of a batch, or the scored ones.

    Attributes:
        input_ids: [rows, tokens], on the host.
        embeddings: [rows, tokens, hidden_size] what the per-layer inputs are projected from.
        rotary: (cos, sin), each [rows, tokens, head_dim], by layer type.
        masks: [rows, 1, tokens, all tokens] who attends to whom, by layer type; None is causal.
    """

    input_ids: Tensor
    embeddings: Tensor
    rotary: Mapping[str, tuple[Tensor, Tensor]]
    masks: Mapping[str, Tensor | None]


@dataclass(frozen=True)
class Activations:
    """A batch between two layers; `hidden` is [altup_num_inputs, rows, tokens, hidden_size]."""

    hidden: Tensor
    shared_kv: Mapping[str, tuple[Tensor, ...]]
    tokens: Tokens


def check_transformers() -> None:
    """Raise `InputError` where layers hand K/V on in another way than `PackedForward` does."""
    import transformers
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextDecoderLayer

    if "shared_kv_states" not in inspect.signature(Gemma3nTextDecoderLayer.forward).parameters:
        raise InputError(
            f"scorer prefix: needs transformers 5.6 or newer, not {transformers.__version__}; "
            "upgrade it, or use scorer: lm-eval"
        )


class PackedForward:
    """A batch on its way through `model` and the slices that share its embeddings."""

    def __init__(self, model: Gemma3nForCausalLM, batch: Batch) -> None:
        self._model = model.model
        self._batch = batch
        self._device = model.model.embed_tokens.weight.device
        self._depth = self._tensor(batch.depth)
        self._subtree_end = self._tensor(batch.subtree_end)
        self._scored = self._tensor(batch.scored)

    def begin(self) -> Activations:
        """The activations before the first layer."""
        text = self._model
        hidden = [self.all_tokens.embeddings]
        magnitude = _magnitude(hidden[0])
        hidden += [
            _rescale(projection(hidden[0]), magnitude) for projection in text.altup_projections
        ]
        return Activations(torch.stack(hidden), {}, self.all_tokens)

    def advance(
        self, model: Gemma3nForCausalLM, here: Activations, start: int, stop: int
    ) -> Activations:
        """The activations after layers `start:stop` of `model`, given those before them."""
        text = model.model
        rows = None
        for index in range(start, stop):
            layer = text.layers[index]
            if layer.self_attn.is_kv_shared_layer and self._drops_tokens(here):
                here, rows = self._only_scored(here), None
            if rows is None:
                rows = per_layer_rows(text, here.tokens.input_ids)
            layer_type = text.config.layer_types[index]
            shared_kv = dict(here.shared_kv)
            hidden = layer(
                here.hidden,
                here.tokens.rotary[layer_type],
                per_layer_input(text, index, here.tokens.embeddings, rows[:, :, index]),
                shared_kv_states=shared_kv,
                attention_mask=here.tokens.masks[layer_type],
            )
            here = replace(here, hidden=hidden, shared_kv=shared_kv)
        return here

    def read(self, model: Gemma3nForCausalLM, here: Activations) -> tuple[Tensor, Tensor]:
        """(log-probability, whether it is the most likely token) of each of the batch's targets.

        Log-probabilities are fp32, whatever the model's dtype.
        """
        text = model.model
        if here.tokens is self.all_tokens:
            here = self._only_scored(here)
        streams = [here.hidden[0]]
        magnitude = _magnitude(streams[0])
        streams += [
            _rescale(projection(stream), magnitude)
            for projection, stream in zip(
                text.altup_unembed_projections, here.hidden[1:], strict=True
            )
        ]
        final = text.norm(torch.stack(streams).mean(dim=0)).flatten(0, 1)

        slot, target = self._batch.slot, self._tensor(self._batch.target)
        softcap = text.config.final_logit_softcapping
        step = max(1, LOGITS_AT_ONCE // text.config.vocab_size)
        logprobs, greedy = [], []
        for first in range(0, len(final), step):
            begin, end = np.searchsorted(slot, [first, first + step])
            logits = model.lm_head(final[first : first + step])
            logits = torch.tanh(logits / softcap) * softcap
            scores = log_softmax(logits.float(), dim=-1)
            reads = self._tensor(slot[begin:end] - first)
            logprobs.append(scores[reads, target[begin:end]])
            greedy.append(scores.argmax(dim=-1)[reads] == target[begin:end])
        return torch.cat(logprobs), torch.cat(greedy)

    @cached_property
    def all_tokens(self) -> Tokens:
        text = self._model
        input_ids = torch.from_numpy(self._batch.input_ids)
        embeddings = text.embed_tokens(send(input_ids, self._device))
        window = text.config.sliding_window
        everything = torch.arange(input_ids.shape[1], device=self._device).expand_as(input_ids)
        is_causal = self._batch.is_causal
        fits = is_causal and input_ids.shape[1] <= window
        return Tokens(
            input_ids,
            embeddings,
            {kind: text.rotary_emb(embeddings, self._depth, kind) for kind in LAYER_TYPES},
            {
                "full_attention": None if is_causal else self._mask(everything, None),
                "sliding_attention": None if fits else self._mask(everything, window),
            },
        )

    @cached_property
    def _scored_tokens(self) -> Tokens:
        everything = self.all_tokens
        return Tokens(
            everything.input_ids.gather(1, torch.from_numpy(self._batch.scored)),
            take(everything.embeddings, self._scored),
            {
                kind: (take(cos, self._scored), take(sin, self._scored))
                for kind, (cos, sin) in everything.rotary.items()
            },
            {
                "full_attention": self._mask(self._scored, None),
                "sliding_attention": self._mask(self._scored, self._model.config.sliding_window),
            },
        )

    def _drops_tokens(self, here: Activations) -> bool:
        """Whether some tokens are still there that are not scored."""
        return here.tokens is self.all_tokens and self._scored.shape[1] < self._depth.shape[1]

    def _only_scored(self, here: Activations) -> Activations:
        hidden = torch.stack([take(stream, self._scored) for stream in here.hidden])
        return replace(here, hidden=hidden, tokens=self._scored_tokens)

    def _mask(self, queries: Tensor, window: int | None) -> Tensor:
        """[rows, 1, queries, tokens] 0 for the ancestors of a query and itself, else -inf.

        With a window, only the last `window` of them, the query included. (Additive, because a mask
        of booleans is turned into this by every layer's attention anew.)
        """
        query = queries[:, :, None]
        key = torch.arange(self._depth.shape[1], device=self._device)
        mask = (key <= query) & (query < self._subtree_end[:, None, :])
        if window is not None:
            mask &= self._depth.gather(1, queries)[:, :, None] - self._depth[:, None, :] < window
        additive = torch.zeros_like(mask, dtype=self._model.embed_tokens.weight.dtype)
        return additive.masked_fill_(~mask, -torch.inf)[:, None]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return send(torch.from_numpy(values), self._device)


def per_layer_rows(text: Gemma3nTextModel, input_ids: Tensor) -> Tensor:
    """The rows of `embed_tokens_per_layer`, [rows, tokens, num_hidden_layers, size].

    A live slice's table stays on the host, where `input_ids` are: only the rows travel, and while
    a GPU is still busy with the batch before, because nothing here waits for its results.
    """
    table = text.embed_tokens_per_layer
    on_host = isinstance(table, KeptPerLayerEmbedding)
    ids = input_ids if on_host else send(input_ids, table.weight.device)
    return text.get_per_layer_inputs(cast("LongTensor", ids))


def per_layer_input(text: Gemma3nTextModel, index: int, embeddings: Tensor, rows: Tensor) -> Tensor:
    """`project_per_layer_inputs` for one layer, whose `rows` are [rows, tokens, size]."""
    size = text.config.hidden_size_per_layer_input
    weight = text.per_layer_model_projection.weight[index * size : (index + 1) * size]
    scaled = linear(embeddings, weight) * text.per_layer_projection_scale.to(embeddings.dtype)
    projected: Tensor = text.per_layer_projection_norm(scaled)
    return (projected + rows) * text.per_layer_input_scale.to(embeddings.dtype)


def take(values: Tensor, index: Tensor) -> Tensor:
    """[rows, n, size] the entries of [rows, tokens, size] at `index` [rows, n]."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[-1]))


def _magnitude(stream: Tensor) -> Tensor:
    return torch.mean(stream**2, dim=-1, keepdim=True) ** 0.5


def _rescale(stream: Tensor, magnitude: Tensor) -> Tensor:
    """An AltUp stream brought to the magnitude of the first one."""
    own = torch.sqrt(torch.mean(stream**2, dim=-1, keepdim=True).clamp(min=1e-5))
    return stream * magnitude / own

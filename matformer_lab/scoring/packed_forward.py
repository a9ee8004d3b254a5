"""Runs one packed batch through Gemma 3n, layer by layer, so that several slices can share layers.

The steps are those of `Gemma3nTextModel.forward` in transformers 5.6 and newer, with two exact
savings:

- From the first layer that reuses earlier K/V on, a token's activations no longer reach any other
  token, so only the tokens whose prediction is scored are computed.
- The LM head runs on scored tokens only, a bounded number of logits at a time.

The embeddings are projected to per-layer inputs layer by layer, not for all layers at once: which
layers a slice skips then cannot change the rounding of the ones it keeps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from matformer_lab.common.errors import InputError
from matformer_lab.live.devices import send
from matformer_lab.live.mapped_weights import check_readable, check_rows_readable
from matformer_lab.scoring.attention.tree_attention import block_mask
from matformer_lab.scoring.compiled_layers import compiled, compiled_layer
from matformer_lab.scoring.lm_head import TargetScores, target_scores, tokens_at_once
from matformer_lab.scoring.per_layer_inputs import PerLayerInputs, source_layers
from matformer_lab.scoring.piecewise_mlp import in_pieces

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask
    from transformers import Gemma3nForCausalLM
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextModel

    from matformer_lab.scoring.batches.packing import Batch
    from matformer_lab.scoring.batches.prefix_tree import Ints
    from matformer_lab.scoring.batches.token_budget import TokenBudget

LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Tokens:
    """The tokens that a layer computes: all of a batch, or the scored ones.

    Attributes:
        embeddings: [rows, tokens, hidden_size] token embeddings, which are projected to per-layer
            inputs.
        per_layer: [rows, all tokens, source layers, size] `PerLayerInputs.wait`.
        places: [rows, tokens] indices of these tokens among all of the batch's; None where they are
            all of them.
        rotary: (cos, sin), each [rows, tokens, head_dim], by layer type.
        masks: [rows, 1, tokens, all tokens] which token attends to which, by layer type; None for
            causal attention. For documents side by side, a `BlockMask` of the same shape.
    """

    embeddings: Tensor
    per_layer: Tensor
    places: Tensor | None
    rotary: Mapping[str, tuple[Tensor, Tensor]]
    masks: Mapping[str, Tensor | BlockMask | None]


@dataclass(frozen=True)
class Activations:
    """A batch between two layers.

    Attributes:
        hidden: [altup_num_inputs, rows, tokens, hidden_size] what the next layer reads.
        shared_kv: Keys and values that later layers reuse, by layer type.
        tokens: Which tokens `hidden` has.
    """

    hidden: Tensor
    shared_kv: Mapping[str, tuple[Tensor, ...]]
    tokens: Tokens


def check_transformers() -> None:
    """Check that transformers' layers pass K/V on the way `PackedForward` does.

    Raises:
        InputError: For transformers older than 5.6.
    """
    import transformers
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextDecoderLayer

    if "shared_kv_states" not in inspect.signature(Gemma3nTextDecoderLayer.forward).parameters:
        raise InputError(
            f"`scorer` prefix needs transformers 5.6 or newer, not {transformers.__version__}; "
            "upgrade it, or set `scorer` to lm-eval"
        )


class PackedForward:
    """A batch on its way through `model` and the slices that share its embeddings.

    Args:
        model: Any of the slices.
        batch: From `slice_scoring.batches_of`.
        inputs: The batch's, from `PerLayerInputFetcher`.
        budget: What the batch was packed with; None: in rows, and layers run as they are. In any
            other mode, `advance` needs to be called within `by_tree_attention`.
    """

    def __init__(
        self,
        model: Gemma3nForCausalLM,
        batch: Batch,
        inputs: PerLayerInputs,
        budget: TokenBudget | None = None,
    ) -> None:
        self._model = model.model
        self._batch = batch
        self._inputs = inputs
        self._device = model.model.embed_tokens.weight.device
        self._depth = self._tensor(batch.depth)
        self._subtree_end = self._tensor(batch.subtree_end)
        self._scored = self._tensor(batch.scored)
        self._one_row = budget is not None and budget.mode != "rows"
        self._compiles = budget is not None and budget.mode == "compiled"
        self._piece_bytes = None if budget is None else budget.piece_bytes

    def begin(self) -> Activations:
        """The activations before the first layer."""
        check_readable(self._model.altup_projections)
        hidden = altup_streams(self._model, self.all_tokens.embeddings)
        return Activations(hidden, {}, self.all_tokens)

    def advance(self, model: Gemma3nForCausalLM, here: Activations, index: int) -> Activations:
        """The activations after layer `index` of `model`, given those before it."""
        text = model.model
        layer = text.layers[index]
        if layer.self_attn.is_kv_shared_layer and self._drops_tokens(here):
            here = self._only_scored(here)
        check_readable(layer)
        layer_type = text.config.layer_types[index]
        shared_kv = dict(here.shared_kv)
        run: Callable[..., Any] = compiled_layer(layer) if self._compiles else layer
        project = compiled(_projected) if self._compiles else _projected
        with in_pieces(layer.mlp, self._piece_bytes, compiled=self._compiles):
            hidden = run(
                here.hidden,
                here.tokens.rotary[layer_type],
                per_layer_input(text, source_layers(model)[index], here.tokens, project),
                shared_kv_states=shared_kv,
                attention_mask=here.tokens.masks[layer_type],
            )
        return replace(here, hidden=hidden, shared_kv=shared_kv)

    def read(self, model: Gemma3nForCausalLM, here: Activations) -> TargetScores:
        """`model`'s predictions of the batch's targets, given the activations after its layers."""
        final = self.scored(model, here)
        slot, target = self._batch.slot, self._tensor(self._batch.target)
        step = tokens_at_once(model)
        found = []
        for first in range(0, len(final), step):
            begin, end = np.searchsorted(slot, [first, first + step])
            reads, wanted = self._tensor(slot[begin:end] - first), target[begin:end]
            found.append(target_scores(model, final[first : first + step], reads, wanted))
        logprobs, greedy = zip(*found, strict=True)
        return TargetScores(torch.cat(logprobs), torch.cat(greedy))

    def scored(self, model: Gemma3nForCausalLM, here: Activations) -> Tensor:
        """[scored tokens, hidden_size] the LM head's input, given the activations after the layers.

        The token of a read is at its `Batch.slot`.
        """
        if here.tokens is self.all_tokens:
            here = self._only_scored(here)
        check_readable(model.model.altup_unembed_projections, model.model.norm, model.lm_head)
        hidden = here.hidden
        if self._one_row:
            # Layers were compiled for a fixed count, padding included. The head was not.
            hidden = hidden[:, :, : self._batch.slot[-1] + 1]
        return head_input(model, hidden).flatten(0, 1)

    @cached_property
    def all_tokens(self) -> Tokens:
        """All tokens of the batch, padding included."""
        text = self._model
        input_ids = self._tensor(self._batch.input_ids)
        check_rows_readable(text.embed_tokens.weight, input_ids)
        embeddings = text.embed_tokens(input_ids)
        return Tokens(
            embeddings,
            self._inputs.wait(),
            None,
            {kind: text.rotary_emb(embeddings, self._depth, kind) for kind in LAYER_TYPES},
            self._block_masks(np.arange(input_ids.shape[1])) if self._one_row else self._masks(),
        )

    @cached_property
    def _scored_tokens(self) -> Tokens:
        everything = self.all_tokens
        return Tokens(
            take(everything.embeddings, self._scored),
            everything.per_layer,
            self._scored,
            {
                kind: (take(cos, self._scored), take(sin, self._scored))
                for kind, (cos, sin) in everything.rotary.items()
            },
            self._block_masks(self._batch.scored[0]) if self._one_row else self._masks_of_scored(),
        )

    def _drops_tokens(self, here: Activations) -> bool:
        """Whether `here` still has tokens that are not scored."""
        return here.tokens is self.all_tokens and self._scored.shape[1] < self._depth.shape[1]

    def _only_scored(self, here: Activations) -> Activations:
        hidden = torch.stack([take(stream, self._scored) for stream in here.hidden])
        return replace(here, hidden=hidden, tokens=self._scored_tokens)

    def _masks(self) -> dict[str, Tensor | BlockMask | None]:
        length = self._depth.shape[1]
        window = self._model.config.sliding_window
        everything = torch.arange(length, device=self._device).expand_as(self._depth)
        is_causal = self._batch.is_causal
        fits = is_causal and length <= window
        return {
            "full_attention": None if is_causal else self._mask(everything, None),
            "sliding_attention": None if fits else self._mask(everything, window),
        }

    def _masks_of_scored(self) -> dict[str, Tensor | BlockMask | None]:
        return {
            "full_attention": self._mask(self._scored, None),
            "sliding_attention": self._mask(self._scored, self._model.config.sliding_window),
        }

    def _block_masks(self, queries: Ints) -> dict[str, Tensor | BlockMask | None]:
        (end,), (depth,) = self._batch.subtree_end, self._batch.depth
        window = self._model.config.sliding_window
        return {
            "full_attention": block_mask(queries, end, depth, None, self._device),
            "sliding_attention": block_mask(queries, end, depth, window, self._device),
        }

    def _mask(self, queries: Tensor, window: int | None) -> Tensor:
        """[rows, 1, queries, tokens] whether a token is the query itself or one of its ancestors.

        With a window, only the last `window` of these, the query included.
        """
        query = queries[:, :, None]
        key = torch.arange(self._depth.shape[1], device=self._device)
        mask = key <= query
        mask &= query < self._subtree_end[:, None, :]
        if window is not None:
            mask &= self._depth.gather(1, queries)[:, :, None] - window < self._depth[:, None, :]
        return mask[:, None]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return send(torch.from_numpy(values), self._device)


def altup_streams(text: Gemma3nTextModel, embeddings: Tensor) -> Tensor:
    """[altup_num_inputs, rows, tokens, hidden_size] what the first layer reads.

    Args:
        text: The model.
        embeddings: [rows, tokens, hidden_size] of the tokens.
    """
    magnitude = _magnitude(embeddings)
    projected = (projection(embeddings) for projection in text.altup_projections)
    return torch.stack([embeddings, *(_rescale(stream, magnitude) for stream in projected)])


def _projected(
    embeddings: Tensor,
    weight: Tensor,
    embedded: Tensor,
    norm: Callable[[Tensor], Tensor],
    projection_scale: Tensor,
    input_scale: Tensor,
) -> Tensor:
    """A layer's share of `Gemma3nTextModel.project_per_layer_inputs`."""
    return (norm(linear(embeddings, weight) * projection_scale) + embedded) * input_scale


def per_layer_input(
    text: Gemma3nTextModel,
    source: int,
    tokens: Tokens,
    project: Callable[..., Tensor] = _projected,
) -> Tensor:
    """One layer's share of `Gemma3nTextModel.project_per_layer_inputs`.

    Args:
        text: The slice that has the layer.
        source: The layer's index in the per-layer tables (`source_layers`).
        tokens: The tokens to compute.
        project: Computes it from the layer's weights: `_projected`, or the same compiled.

    Returns:
        [rows, tokens, hidden_size_per_layer_input].
    """
    check_readable(text.per_layer_model_projection, text.per_layer_projection_norm)
    size, dtype = text.config.hidden_size_per_layer_input, tokens.embeddings.dtype
    weight = text.per_layer_model_projection.weight[source * size : (source + 1) * size]
    embedded = tokens.per_layer[:, :, source]
    return project(
        tokens.embeddings,
        weight.to(dtype),  # it may be in the stored dtype
        embedded if tokens.places is None else take(embedded, tokens.places),
        text.per_layer_projection_norm,
        text.per_layer_projection_scale.to(dtype),
        text.per_layer_input_scale.to(dtype),
    )


def head_input(model: Gemma3nForCausalLM, hidden: Tensor) -> Tensor:
    """[rows, tokens, hidden_size] the LM head's input, given what the last layer left."""
    text = model.model
    streams = [hidden[0]]
    magnitude = _magnitude(streams[0])
    streams += [
        _rescale(projection(stream), magnitude)
        for projection, stream in zip(text.altup_unembed_projections, hidden[1:], strict=True)
    ]
    final: Tensor = text.norm(torch.stack(streams).mean(dim=0))
    return final


def take(values: Tensor, index: Tensor) -> Tensor:
    """[rows, n, size] the entries of [rows, tokens, size] at `index` [rows, n]."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[-1]))


def _magnitude(stream: Tensor) -> Tensor:
    return torch.mean(stream**2, dim=-1, keepdim=True) ** 0.5


def _rescale(stream: Tensor, magnitude: Tensor) -> Tensor:
    """An AltUp stream scaled to the magnitude of the first one."""
    own = torch.sqrt(torch.mean(stream**2, dim=-1, keepdim=True).clamp(min=1e-5))
    return stream * magnitude / own

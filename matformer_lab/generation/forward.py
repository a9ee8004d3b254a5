"""Takes new tokens of a batch through Gemma 3n, given the keys and values of those before them.

The layers are transformers' own. As in `scoring.packed_forward`, layers that reuse earlier K/V
compute only the tokens whose prediction is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from matformer_lab.generation.key_values import KeyValues, Writer
from matformer_lab.live.mapped_weights import check_readable, check_rows_readable
from matformer_lab.scoring.lm_head import softcapped
from matformer_lab.scoring.packed_forward import altup_streams, head_input
from matformer_lab.scoring.piecewise_mlp import in_pieces

if TYPE_CHECKING:
    from transformers import Cache, Gemma3nForCausalLM


def extend(
    model: Gemma3nForCausalLM,
    held: KeyValues,
    tokens: Tensor,
    first: int,
    *,
    read: bool,
    check: bool = True,
) -> Tensor | None:
    """Compute new tokens and keep their keys and values.

    Args:
        model: A live slice, within `attends_split`.
        held: Of the tokens before; the new ones are added.
        tokens: [rows, columns] token ids, anything where a row has padding.
        first: The column of the first of them.
        read: Whether the prediction after the last column is wanted.
        check: Whether to ask for the weights first (`check_readable`). For single tokens that takes
            a tenth of the time; without it, a disk that fails meanwhile ends the process.

    Returns:
        [rows, vocabulary] the logits of the next tokens, or None.

    Raises:
        UnreadableWeightsError: The weights cannot be read from the disk.
    """
    text, config = model.model, model.config
    if check:
        check_readable(
            text.per_layer_model_projection, text.per_layer_projection_norm, text.altup_projections
        )
    layer_types = cast("list[str]", config.layer_types)
    count = tokens.shape[1]
    check_rows_readable(text.embed_tokens.weight, tokens)
    embeddings = text.embed_tokens(tokens)
    per_layer = text.project_per_layer_inputs(embeddings, text.get_per_layer_inputs(tokens))
    columns = torch.arange(first, first + count, device=tokens.device)
    positions = (held.shared.length + columns - held.starts).clamp(min=0)
    kinds = dict.fromkeys(layer_types)
    rotary = {kind: text.rotary_emb(embeddings, positions, kind) for kind in kinds}
    windows = {
        kind: held.window(
            first, count, config.sliding_window if kind == "sliding_attention" else None
        )
        for kind in kinds
    }
    masks = {kind: window.mask for kind, window in windows.items()}
    writer = cast("Cache", Writer(held, first, windows, tuple(layer_types)))
    hidden = altup_streams(text, embeddings)
    reused: dict[str, tuple[Tensor, Tensor]] = {}
    for number, layer in enumerate(text.layers):
        kind = layer_types[number]
        if layer.self_attn.is_kv_shared_layer and not read:
            return None  # from here on, no token reaches another
        if layer.self_attn.is_kv_shared_layer and hidden.shape[2] > 1:
            hidden = hidden[:, :, -1:]
            per_layer = per_layer[:, -1:]
            rotary = {each: (cos[:, -1:], sin[:, -1:]) for each, (cos, sin) in rotary.items()}
            masks = {each: mask[:, :, -1:] for each, mask in masks.items()}
        if check:
            check_readable(layer)
        with in_pieces(layer.mlp):
            hidden = layer(
                hidden,
                rotary[kind],
                per_layer[:, :, number],
                shared_kv_states=reused,
                attention_mask=masks[kind],
                past_key_values=writer,
            )
    if not read:
        return None
    if check:
        check_readable(text.altup_unembed_projections, text.norm, model.lm_head)
    final = head_input(model, hidden[:, :, -1:])[:, 0]
    return softcapped(model, model.lm_head(final))

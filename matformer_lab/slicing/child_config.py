"""The child's config.json: the parent's, except for the keys that a slice changes."""

from collections.abc import Collection
from typing import Any

from matformer_lab.gemma3n import default_layer_types, text_part
from matformer_lab.parent.parent import Parent
from matformer_lab.parent.quantised import QUANTIZATION_KEYS, has_quantised_towers
from matformer_lab.slicing.filling import EVERY_GAP, Gap, config_filling
from matformer_lab.slicing.slice import Slice


def child_config(
    parent: Parent, slice_: Slice, *, text_only: bool, fill: Collection[Gap] = EVERY_GAP
) -> dict[str, Any]:
    """The config.json of a child, with its keys in the parent's order.

    It does not go through transformers, which drops keys that other runtimes need (5.x drops
    `rope_theta`). Each kept layer takes its per-layer values from its layer in the parent, and
    shares K/V if that one does.

    Args:
        parent: The parent, whose config.json is the starting point.
        slice_: A slice of `parent`.
        text_only: Write a `gemma3n_text` config, even for a parent with towers.
        fill: What to fill in where the parent lacks it. `layer_types` are there in any case where
            they are not what runtimes take them for without the key.
    """
    text = parent.text
    kept = slice_.kept(text.num_hidden_layers)
    written = text_part(parent.config)
    filled = config_filling(parent, fill)
    changes: dict[str, Any] = {
        **filled,
        "num_hidden_layers": len(kept),
        "num_kv_shared_layers": sum(layer >= text.first_kv_shared_layer for layer in kept),
        "layer_types": [text.layer_types[layer] for layer in kept],
        "activation_sparsity_pattern": [_sparsity(parent, n) for n in kept],
        "intermediate_size": list(slice_.widths),
    }
    if isinstance(written.get("intermediate_size"), int) and len(set(slice_.widths)) == 1:
        changes["intermediate_size"] = slice_.widths[0]
    unwritten = "layer_types" not in filled and written.get("layer_types") is None
    if unwritten and changes["layer_types"] == default_layer_types(len(kept)):
        del changes["layer_types"]
    # Where the head is a tensor of its own: transformers 5 reads this flag at the top of a full
    # config, 4.x in text_config.
    untied = {"tie_word_embeddings": False} if parent.separate_head else {}
    # Text weights are never quantised here; by settings that are left over from a quantised model,
    # transformers and mlx-lm would read them as if they were.
    child_text = _without_quantization({**written, **changes, **untied})
    if not parent.multimodal:
        return child_text
    if not text_only:
        full = {**parent.config, "text_config": child_text, **untied}
        return full if has_quantised_towers(parent.tensors) else _without_quantization(full)
    top = parent.config
    inherited = (
        *("torch_dtype", "dtype", "transformers_version"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),
    )
    from_top = {key: top[key] for key in inherited if key in top and key not in child_text}
    return {
        "architectures": ["Gemma3nForCausalLM"],
        **child_text,
        **from_top,
        "model_type": "gemma3n_text",
    }


def _without_quantization(config: dict[str, Any]) -> dict[str, Any]:
    """A config, or its text part, without settings of quantisation."""
    return {key: value for key, value in config.items() if key not in QUANTIZATION_KEYS}


def _sparsity(parent: Parent, layer: int) -> float:
    """A layer's activation sparsity as the parent writes it; a float, which 5.x insists on."""
    value = parent.text.activation_sparsity_pattern[layer]
    written = text_part(parent.config).get("activation_sparsity_pattern")
    if not isinstance(written, list) or len(written) != parent.text.num_hidden_layers:
        return value
    as_written = written[layer]
    return as_written if isinstance(as_written, float) else value

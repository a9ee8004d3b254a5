"""A slice cut out of a transformers model by code that is not the tool's."""

import copy
from collections.abc import Collection, Sequence
from typing import Any


def cut_by_hand(whole: Any, skipped: Collection[int], widths: Sequence[int]) -> Any:
    """A `Gemma3nForCausalLM` or `Gemma3nForConditionalGeneration` without some layers.

    Args:
        whole: The parent's model.
        skipped: The layers to leave out.
        widths: The FFN width of each of the others.
    """
    config = copy.deepcopy(whole.config)
    is_full = hasattr(config, "text_config")
    text = (config.text_config if is_full else config).to_dict()
    layers = text["num_hidden_layers"]
    first_shared = layers - text["num_kv_shared_layers"]
    kept = [layer for layer in range(layers) if layer not in skipped]
    for key in ("layer_types", "activation_sparsity_pattern"):
        text[key] = [text[key][layer] for layer in kept]
    text["intermediate_size"] = list(widths)
    text["num_hidden_layers"] = len(kept)
    text["num_kv_shared_layers"] = sum(layer >= first_shared for layer in kept)
    if is_full:
        config.text_config = type(config.text_config).from_dict(text)
    else:
        config = type(config).from_dict(text)
    child = type(whole)(config)
    old, new = whole.state_dict(), child.state_dict()
    ple = text["hidden_size_per_layer_input"]
    columns = [layer * ple + i for layer in kept for i in range(ple)]
    prefix = "model.language_model.layers." if is_full else "model.layers."
    for name in new:
        value = old.get(name)
        if name.startswith(prefix):
            number, tail = name.removeprefix(prefix).split(".", 1)
            value = old[f"{prefix}{kept[int(number)]}.{tail}"]
            width = widths[int(number)]
            if "gate_proj" in tail or "up_proj" in tail:
                value = value[:width]
            elif "down_proj" in tail:
                value = value[:, :width]
        elif name.endswith("embed_tokens_per_layer.weight"):
            value = value[:, columns]
        elif name.endswith("per_layer_model_projection.weight"):
            value = value[columns]
        new[name] = value
    child.load_state_dict(new)
    return child.train(False)

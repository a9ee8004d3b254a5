"""Trained tensors to a `gemma3n_text` checkpoint folder, laid out as published ones are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from training.tiny import network
from training.tiny.network import Params, Shape


def config(shape: Shape, widths: list[int], dtype: str) -> dict[str, object]:
    """config.json with the keys that transformers 4.53 to 5.x, mlx-lm and mistral.rs read."""
    kinds = [
        "full_attention" if shape.is_full(n) else "sliding_attention" for n in range(shape.layers)
    ]
    sparsity = [network.SPARSITY if n < shape.sparse else 0.0 for n in range(shape.layers)]
    return {
        "activation_sparsity_pattern": sparsity,
        "altup_active_idx": 0,
        "altup_coef_clip": 120.0,
        "altup_correct_scale": True,
        "altup_num_inputs": shape.streams,
        "architectures": ["Gemma3nForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "final_logit_softcapping": shape.softcap,
        "head_dim": shape.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": shape.hidden,
        "hidden_size_per_layer_input": shape.per_layer,
        "initializer_range": 0.02,
        "intermediate_size": widths,
        "laurel_rank": shape.laurel,
        "layer_types": kinds,
        "max_position_embeddings": 32768,
        "model_type": "gemma3n_text",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": 1,
        "num_kv_shared_layers": shape.kv_shared,
        "pad_token_id": 0,
        "rms_norm_eps": shape.eps,
        "rope_local_base_freq": shape.rope_sliding,
        "rope_scaling": None,
        "rope_theta": shape.rope_full,
        "sliding_window": shape.window,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "transformers_version": "4.53.3",
        "use_cache": True,
        "vocab_size": shape.vocab,
        "vocab_size_per_layer_input": shape.vocab,
    }


def tensors(params: Params) -> dict[str, Tensor]:
    """Stacks taken apart, names as in published checkpoints; the tied `lm_head.weight` left out."""
    out: dict[str, Tensor] = {}
    for name, tensor in params.items():
        if ".*." in name:
            for n, part in enumerate(tensor.detach().unbind(0)):
                out["model." + name.replace("*", str(n))] = part.clone()
        else:
            out["model." + name] = tensor.detach().clone()
    return out


def stacks(flat: dict[str, Tensor], shape: Shape) -> Params:
    """The inverse of `tensors`."""
    params: Params = {}
    for name in network.LAYER_NAMES:
        every = [flat[f"model.layers.{n}.{name}"] for n in range(shape.layers)]
        params[f"layers.*.{name}"] = torch.stack(every)
    rest = {k: v for k, v in flat.items() if not k.startswith("model.layers.")}
    return params | {k.removeprefix("model."): v for k, v in rest.items()}


def write(folder: Path, params: Params, shape: Shape, tokenizer: Tokenizer) -> None:
    """Weights in bf16, config, tokenizer and generation config into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in sorted(tensors(params).items())}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes 0600
    dump(folder / "config.json", config(shape, [shape.ffn] * shape.layers, "bfloat16"))
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    dump(folder / "special_tokens_map.json", special)
    dump(
        folder / "tokenizer_config.json",
        special
        | {
            "add_bos_token": True,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 32768,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    dump(
        folder / "generation_config.json",
        {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "transformers_version": "4.53.3"},
    )


def dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def card(facts: dict[str, Any], shape: Shape, parameters: int) -> str:
    """The model card, from the figures that `tiny.json` holds."""
    tasks = list(next(iter(facts["scores"].values())))
    rows = [f"| slice | {' | '.join(tasks)} |", "| --- |" + " --- |" * len(tasks)]
    for name, scores in facts["scores"].items():
        cells = (f"{100 * s['value']:.1f} ± {196 * s['stderr']:.1f}" for s in scores.values())
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return CARD.format(
        parameters=parameters, shape=shape, scores="\n".join(rows), **facts["training"]
    )


# Gemma's in few words: the BOS, the system's text in the first user's turn, roles in turn.
CHAT_TEMPLATE = """\
{{ bos_token }}\
{% set system = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' -%}
{% for m in messages if m.role != 'system' -%}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('roles must alternate: user, assistant, user, ...') }}{% endif -%}
<{{ 'model' if m.role == 'assistant' else 'user' }}>
{{ system if loop.first }}{{ m.content | trim }}
{% endfor %}{{ '<model>\\n' if add_generation_prompt }}"""

CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [matformer, gemma3n, toy]
---
# tiny: a MatFormer in miniature

What it is: a text-only `gemma3n_text` model of {parameters:,} parameters with Gemma 3n E4B's layer structure (35 layers,
four sliding and one full attention, keys and values shared from layer 20, sparse FFNs in layers 0 to 9, AltUp, LAuReL,
per-layer embeddings), hidden size {shape.hidden}, FFN {shape.ffn}. It was trained from nothing, all nested FFN widths and
the skip of layers 20-24 together, on the facts of a made-up world. Weights are this project's own; none come from Google's
Gemma.

What it is not: a language model. It knows 64 substances, 128 actions and two forms of question; anything else it answers
at random. Nothing about Gemma 3n's quality follows from its figures. The MMLU format is answered in words, not letters.

Training: seed {seed}, world {world}, {steps:,} steps of {batch} rows of {length} tokens, on a CPU, with `training/tiny`
of the repository. The key and value tensors of layers 20 to 34 are part of the file, as in published checkpoints, but no
forward uses them: they are untrained random numbers.

Scores in per cent, with 95 % intervals over the items (chance is 25, 50 and 25):

{scores}
"""  # noqa: E501

"""Live slices that see and hear: the parent's towers, loaded once, around a slice's text."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import LM_HEAD
from matformer_lab.live.empty_model import fill_buffers, generation_config, on_meta
from matformer_lab.live.siblings import alike
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.plan import Plan

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM, Gemma3nForConditionalGeneration

_ROOT = "model."
"""What the names of a full checkpoint begin with, towers included."""


def tower_names(parent: Parent) -> list[str]:
    """The full names of the tensors of the parent's towers and of their embedders.

    Raises:
        InputError: The parent has no towers.
    """
    if not parent.multimodal:
        raise InputError(f"{parent.ref} is a text model; pictures and sound need the full gemma3n")
    return [
        name for name in parent.tensors if not name.startswith(parent.prefix) and name != LM_HEAD
    ]


def with_towers(
    parent: Parent, weights: Mapping[str, Tensor], dtype: torch.dtype, device: str
) -> Gemma3nForConditionalGeneration:
    """The parent's full model with its towers in place, and a text model without weights.

    Args:
        parent: A full parent.
        weights: The tensors of `tower_names`, by full name.
        dtype: Of the towers' parameters.
        device: Where the towers are.

    Raises:
        InputError: timm or torchvision is missing, or the towers are not those that the installed
            transformers builds for the parent's config.
    """
    from transformers import Gemma3nConfig, Gemma3nForConditionalGeneration, PreTrainedModel

    config: Any = Gemma3nConfig.from_dict(copy.deepcopy(dict(parent.config)))
    config.dtype = dtype
    # The text model is replaced by a slice's. Two layers of it are enough to build the rest.
    try:
        with on_meta(dtype):
            model = Gemma3nForConditionalGeneration(_with_small_text(config))
    except ImportError as error:
        raise InputError(
            f"{parent.ref}: the vision tower needs timm and torchvision, which are not installed: "
            "pip install timm torchvision"
        ) from error
    model.config = model.model.config = config
    core: Any = model.model
    core.vocab_size = config.text_config.vocab_size
    core.vocab_size_per_layer_input = config.text_config.vocab_size_per_layer_input
    towers = torch.nn.ModuleDict(
        {name: child for name, child in core.named_children() if name != "language_model"}
    )
    values = {
        name.removeprefix(_ROOT): value.to(device, dtype if value.is_floating_point() else None)
        for name, value in weights.items()
    }
    for tower in towers.values():
        if isinstance(tower, PreTrainedModel):  # knows the values of its own buffers
            fill_buffers(tower, device)
    problems = towers.load_state_dict(values, strict=False, assign=True)
    if found := [*problems.missing_keys, *problems.unexpected_keys]:
        raise InputError(
            f"{parent.ref}: its towers are not those of its config, as this transformers and timm "
            f"build them: {found[0]}" + (f" and {len(found) - 1} more" if len(found) > 1 else "")
        )
    model.requires_grad_(False)
    model.train(False)
    return model


def multimodal(
    towers: Gemma3nForConditionalGeneration, text: Gemma3nForCausalLM, plan: Plan
) -> Gemma3nForConditionalGeneration:
    """A slice that sees and hears: `towers` (of `with_towers`), shared, around a live slice.

    Args:
        towers: The parent's full model with its towers.
        text: A live slice of the same parent.
        plan: The slice's plan in the full form.
    """
    made, core = alike(towers), alike(towers.model)
    config = copy.deepcopy(towers.config)
    config.text_config = copy.deepcopy(text.config)
    made.config = core.config = config
    made.model = core
    core.language_model = text.model
    made.lm_head = text.lm_head
    made.generation_config = generation_config(plan) or made.generation_config
    made.train(False)
    return made


def _with_small_text(config: Any) -> Any:
    """A copy of `config` with few layers, and all that lies outside of them as it is."""
    from transformers import Gemma3nTextConfig

    small = copy.deepcopy(config)
    text = small.text_config.to_dict()
    text |= {
        "num_hidden_layers": 2,
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0, 0.0],
        "intermediate_size": [text["hidden_size"]] * 2,
    }
    small.text_config = Gemma3nTextConfig.from_dict(text)
    return small

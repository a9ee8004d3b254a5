"""A model without weights, ready to be given the parent's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from matformer_lab.gemma3n import (
    text_part,
)
from matformer_lab.slicing.plan import Plan

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM


def empty_model(plan: Plan, dtype: torch.dtype, device: str) -> "Gemma3nForCausalLM":
    """The model on the meta device, its non-persistent buffers filled."""
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig, GenerationConfig

    config = Gemma3nTextConfig.from_dict(dict(text_part(plan.config)))
    config.dtype = dtype
    config._attn_implementation = "sdpa"  # the packed masks mean what they should in this one only
    with _default_dtype(dtype), torch.device("meta"):
        model = Gemma3nForCausalLM(config)
    for module in model.model.modules():
        buffers = list(module.named_buffers(recurse=False))
        for name, buffer in buffers:
            module.register_buffer(name, torch.empty_like(buffer, device=device), persistent=False)
        if buffers:
            # What from_pretrained does for buffers that no checkpoint holds (rotary frequencies,
            # embedding scales); parameters are still on meta and stay untouched.
            model.model._init_weights(module)
    folder = plan.parent.folder
    if folder is not None and (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """from_pretrained builds under the target dtype, so some buffers round to it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

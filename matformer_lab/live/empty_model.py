"""A model without weights, to which the parent's weights can be assigned."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from matformer_lab.gemma3n import text_part
from matformer_lab.slicing.plan import Plan

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM


def empty_model(plan: Plan, dtype: torch.dtype, device: str) -> "Gemma3nForCausalLM":
    """Build the text model of a plan with its parameters on the meta device.

    Args:
        plan: A text-only plan; its config defines the model.
        dtype: Dtype of the parameters.
        device: Where the non-persistent buffers (rotary frequencies, embedding scales) are; they
            hold the values that `from_pretrained` gives them.

    Returns:
        The model, with the parent's generation config if the parent is local and has one.
    """
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig, GenerationConfig

    config = Gemma3nTextConfig.from_dict(dict(text_part(plan.config)))
    config.dtype = dtype
    config._attn_implementation = "sdpa"  # the only one that applies the packed masks as intended
    with _default_dtype(dtype), torch.device("meta"):
        model = Gemma3nForCausalLM(config)
    for module in model.model.modules():
        buffers = list(module.named_buffers(recurse=False))
        for name, buffer in buffers:
            module.register_buffer(name, torch.empty_like(buffer, device=device), persistent=False)
        if buffers:
            # from_pretrained also fills the buffers that are in no checkpoint (rotary frequencies,
            # embedding scales) this way. Parameters are still on meta and are not affected.
            model.model._init_weights(module)
    folder = plan.parent.folder
    if folder is not None and (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype, as from_pretrained does: some buffers are rounded to it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

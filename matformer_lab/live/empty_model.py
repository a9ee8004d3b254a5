"""A model without weights, to which the parent's weights can be assigned."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from matformer_lab.gemma3n import text_part
from matformer_lab.slicing.plan import Plan

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM, GenerationConfig, PreTrainedModel


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
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    config = Gemma3nTextConfig.from_dict(dict(text_part(plan.config)))
    config.dtype = dtype
    config._attn_implementation = "sdpa"  # the only one that applies the packed masks as intended
    with on_meta(dtype):
        model = Gemma3nForCausalLM(config)
    fill_buffers(model.model, device)
    model.generation_config = generation_config(plan) or model.generation_config
    return model


def generation_config(plan: Plan) -> "GenerationConfig | None":
    """The parent's generation config, if the parent is local and has one."""
    from transformers import GenerationConfig

    folder = plan.parent.folder
    if folder is None or not (folder / "generation_config.json").exists():
        return None
    return GenerationConfig.from_pretrained(folder)


def fill_buffers(model: "PreTrainedModel", device: str) -> None:
    """Give buffers that are in no checkpoint (rotary frequencies, scales, masks) their values.

    Args:
        model: A model on the meta device, whose initialisation knows the values, as
            `from_pretrained` uses it. Its parameters stay there.
        device: Where the buffers shall be.
    """
    for module in model.modules():
        names = [
            name
            for name, _ in module.named_buffers(recurse=False)
            if name in module._non_persistent_buffers_set
        ]
        for name in names:
            empty = torch.empty_like(module.get_buffer(name), device=device)
            module.register_buffer(name, empty, persistent=False)
        if names:
            model._init_weights(module)  # type: ignore[no-untyped-call]


@contextmanager
def on_meta(dtype: torch.dtype) -> Iterator[None]:
    """Modules that are built meanwhile have their parameters in `dtype`, on the meta device."""
    with _default_dtype(dtype), torch.device("meta"):
        yield


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype, as from_pretrained does: some buffers are rounded to it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

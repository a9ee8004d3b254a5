"""Slices that keep the same layers, as models that share all modules but those of other widths.

Building a model takes as long as scoring hundreds of tokens of a small one, and a search scores
hundreds of slices. These models are for scoring: what is done to the modules of one (moved, cast,
hooked) is done to those of the others.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from matformer_lab.gemma3n import FFN_WEIGHTS, layer_tensor

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

_M = TypeVar("_M", bound=nn.Module)


def sibling(
    model: Gemma3nForCausalLM, widths: Sequence[int], weights: Mapping[str, Tensor]
) -> Gemma3nForCausalLM:
    """A slice that keeps the same layers as `model`, at other FFN widths.

    Args:
        model: A live slice.
        widths: Of its layers.
        weights: Those of the slice's FFNs, by name (`layers.0.mlp.up_proj.weight`).
    """
    config = copy.deepcopy(model.config)
    config.intermediate_size = list(widths)
    made, text = alike(model), alike(model.model)
    made.config = text.config = config
    made.model = text
    text.layers = nn.ModuleList(
        layer
        if layer.mlp.intermediate_size == width
        else _with_width(layer, number, width, weights)
        for number, (layer, width) in enumerate(zip(model.model.layers, widths, strict=True))
    )
    return made


def _with_width(layer: Any, number: int, width: int, weights: Mapping[str, Tensor]) -> Any:
    made, mlp = alike(layer), alike(layer.mlp)
    made.mlp = mlp
    mlp.intermediate_size = width
    for name, weight in FFN_WEIGHTS.items():
        linear = alike(getattr(mlp, name))
        setattr(mlp, name, linear)
        value = weights[layer_tensor(number, weight)]
        if isinstance(linear, nn.Linear):
            linear.weight = nn.Parameter(value, requires_grad=False)
            linear.out_features, linear.in_features = value.shape
        else:
            linear.weight = value  # of a `ConvertingLinear`, whose weight is a buffer
    return made


def alike(module: _M) -> _M:
    """The same module with lists of its own: children, parameters, hooks."""
    made = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):
            vars(made)[name] = copy.copy(value)
    return made

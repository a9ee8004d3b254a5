"""Which layers a slice may skip."""

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import TextConfig


def check_skip(skip: tuple[int, ...], text: TextConfig) -> tuple[int, ...]:
    """Check that a Gemma 3n without these layers still works.

    Args:
        skip: Indices of the layers to skip, each once (`notation` sees to it), in any order.
        text: The parent's config.

    Returns:
        `skip` in ascending order.

    Raises:
        InputError: A layer does not exist or feeds the shared K/V of later layers, or no layer of
            some attention type, or none that shares K/V, would be left.
    """
    for layer in skip:
        if not 0 <= layer < text.num_hidden_layers:
            raise InputError(
                f"skipped layer {layer}: the parent has layers 0 to {text.num_hidden_layers - 1}"
            )
    kept = [n for n in range(text.num_hidden_layers) if n not in skip]
    for kind in sorted(set(text.layer_types)):
        if not any(text.layer_types[layer] == kind for layer in kept):
            raise InputError(f"skipping {list(skip)} leaves no {kind} layer")
    if kept[-1] < text.first_kv_shared_layer < text.num_hidden_layers:
        raise InputError(
            f"skipping all of layers {text.first_kv_shared_layer}-{text.num_hidden_layers - 1} "
            "leaves no layer that shares K/V, which runtimes do not load; keep one of them"
        )
    for layer in sorted(text.kv_sources & set(skip)):
        raise InputError(
            f"skipped layer {layer} feeds the shared K/V of layers "
            f"{text.first_kv_shared_layer}-{text.num_hidden_layers - 1} and must stay"
        )
    return tuple(sorted(skip))

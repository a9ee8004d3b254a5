"""A plan as JSON, for programs: what `matformer-lab plan --json` prints."""

from dataclasses import asdict
from typing import Any

from matformer_lab.gemma3n import is_multimodal
from matformer_lab.parent.quantised import QuantisedCheckpoint
from matformer_lab.slicing.plan import Plan
from matformer_lab.slicing.runtimes import runtime_verdicts
from matformer_lab.slicing.sizes import sizes_of


def plan_json(plan: Plan, context: int | None = None, *, of_folder: bool = False) -> dict[str, Any]:
    """A plan with its sizes, kept layers and runtime verdicts, as a JSON object.

    Args:
        plan: The plan.
        context: Tokens in the K/V cache; `max_position_embeddings` if None.
        of_folder: Whether the verdicts are of the parent as it lies there.

    Returns:
        The keys `slice` (its name), `parent` (its `ref`), `num_hidden_layers`, `skipped`,
        `text_only`, `params`, `bytes`, `accelerator_bytes`, `kv_cache`, `flops_per_token`, `layers`
        (one object for each kept layer), `filled` (what the parent lacks) and `runtimes`. Sizes are
        those of `Sizes`, verdicts those of `RuntimeVerdict`.
    """
    size = sizes_of(plan, context)
    parent = plan.parent.text
    return {
        "slice": plan.slice.name,
        "parent": plan.parent.ref,
        "num_hidden_layers": plan.text.num_hidden_layers,
        "skipped": list(plan.slice.skipped),
        "text_only": plan.text_only,
        "params": {"total": size.total, "text": size.text, "effective": size.effective},
        "bytes": size.nbytes,
        "accelerator_bytes": size.accelerator_bytes,
        "kv_cache": {"context": size.context, "bytes": size.kv_cache_bytes},
        "flops_per_token": size.flops_per_token,
        "layers": [
            {
                "layer": index,
                "parent_layer": source,
                "attention": plan.text.layer_types[index],
                "intermediate_size": width,
                "fraction": width / parent.intermediate_size[source],
                "activation_sparsity": plan.text.activation_sparsity_pattern[index],
                "kv_shared": index >= plan.text.first_kv_shared_layer,
            }
            for index, (source, width) in enumerate(plan.widths.items())
        ],
        "filled": plan.filling.as_json(),
        "runtimes": [
            asdict(verdict) for verdict in runtime_verdicts(plan.parent if of_folder else plan)
        ],
    }


def quantised_json(checkpoint: QuantisedCheckpoint) -> dict[str, Any]:
    """A quantised checkpoint as it is, as a JSON object.

    Returns:
        The keys `parent` (its `ref`), `quantised` (how, how many of how many weights, and which of
        those that should not be), `num_hidden_layers`, `intermediate_size` (one for each layer),
        `text_only`, `bytes` and `runtimes`, as in `plan_json`.
    """
    weights = checkpoint.weights
    return {
        "parent": checkpoint.ref,
        "quantised": {
            "how": checkpoint.how,
            "weights": sum(weights.values()),
            "of": len(weights),
            "should_not_be": list(checkpoint.should_not_be),
        },
        "num_hidden_layers": checkpoint.text.num_hidden_layers,
        "intermediate_size": list(checkpoint.text.intermediate_size),
        "text_only": not is_multimodal(checkpoint.config),
        "bytes": checkpoint.nbytes,
        "runtimes": [asdict(verdict) for verdict in runtime_verdicts(checkpoint)],
    }

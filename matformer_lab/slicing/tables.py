"""A plan as rows of text: what the terminal, the model card and the notebook show."""

from typing import Final

from matformer_lab.slicing.layer_runs import runs_of, written, written_layers
from matformer_lab.slicing.plan import Plan
from matformer_lab.slicing.runtimes import runtime_verdicts
from matformer_lab.slicing.sizes import sizes_of

LAYER_HEAD: Final = ("parent layers", "attention", "FFN width", "of the parent's")
RUNTIME_HEAD: Final = ("runtime", "verdict", "why")


def size_rows(plan: Plan, context: int | None = None) -> list[tuple[str, str]]:
    """Sizes of the child, one a row. `context` in tokens for the K/V cache."""
    size = sizes_of(plan, context)
    return [
        ("layers", f"{plan.text.num_hidden_layers} of {plan.parent.text.num_hidden_layers}"),
        ("skipped parent layers", written_layers(plan.slice.skipped) or "none"),
        ("effective parameters", f"{size.effective:,}"),
        ("text parameters", f"{size.text:,}"),
        ("all parameters", f"{size.total:,}"),
        ("tensor bytes", f"{size.nbytes:,}"),
        ("accelerator bytes, PLE on the host", f"{size.accelerator_bytes:,}"),
        (f"K/V cache bytes at {size.context:,} tokens", f"{size.kv_cache_bytes:,}"),
        ("FLOPs a token", f"{size.flops_per_token:,}"),
    ]


def layer_rows(plan: Plan) -> list[tuple[str, str, str, str]]:
    """Kept layers, neighbours with one width as one row."""
    parent, widths = plan.parent.text, plan.widths
    rows = []
    for run, width in runs_of([widths.get(n) for n in range(parent.num_hidden_layers)]):
        if width is None:
            continue
        kinds = [parent.layer_types[layer].removesuffix("_attention") for layer in run]
        count = " + ".join(f"{kinds.count(k)} {k}" for k in ("sliding", "full") if k in kinds)
        full = parent.intermediate_size[run[0]]
        rows.append((written(run), count, f"{width:,}", f"{width / full:.3g}"))
    return rows


def runtime_rows(plan: Plan) -> list[tuple[str, str, str]]:
    """What each runtime makes of the child."""
    return [(f"{v.runtime} {v.version}", v.verdict, v.why) for v in runtime_verdicts(plan)]

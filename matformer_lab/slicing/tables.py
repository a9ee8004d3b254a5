"""A plan as tables of text, which the terminal, the model card and the notebook show."""

from typing import Final, NamedTuple

from matformer_lab.parent.parent import Parent
from matformer_lab.parent.quantised import QuantisedCheckpoint
from matformer_lab.slicing.layer_runs import runs_of, written, written_layers
from matformer_lab.slicing.plan import Plan
from matformer_lab.slicing.runtimes import runtime_verdicts
from matformer_lab.slicing.sizes import sizes_of

LAYER_HEAD: Final = ("parent layers", "attention", "FFN width", "of the parent's")
"""The column heads of `layer_rows`."""

RUNTIME_HEAD: Final = ("runtime", "verdict", "why")
"""The column heads of `runtime_rows`."""


class SizeRow(NamedTuple):
    """A row of the table of sizes."""

    label: str
    value: str


class LayerRow(NamedTuple):
    """A row of the table of layers: a run of neighbouring layers with one width.

    Attributes:
        layers: Their indices in the parent, e.g. `20-24`.
        attention: How many of them have which attention, e.g. `4 sliding + 1 full`.
        width: Their FFN width in hidden units.
        fraction: The width as a fraction of the parent's.
    """

    layers: str
    attention: str
    width: str
    fraction: str


class RuntimeRow(NamedTuple):
    """A row of the table of runtimes: a `RuntimeVerdict` as text."""

    runtime: str
    verdict: str
    why: str


def size_rows(plan: Plan, context: int | None = None) -> list[SizeRow]:
    """The sizes of a plan's child, one per row.

    Args:
        plan: The plan.
        context: Tokens in the K/V cache; `max_position_embeddings` if None.
    """
    size = sizes_of(plan, context)
    rows = [
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
    return [SizeRow(label, value) for label, value in rows]


def layer_rows(plan: Plan) -> list[LayerRow]:
    """The kept layers of a plan, with neighbours of one width in one row."""
    parent, widths = plan.parent.text, plan.widths
    rows = []
    for run, width in runs_of([widths.get(n) for n in range(parent.num_hidden_layers)]):
        if width is None:
            continue
        kinds = [parent.layer_types[layer].removesuffix("_attention") for layer in run]
        count = " + ".join(f"{kinds.count(k)} {k}" for k in ("sliding", "full") if k in kinds)
        full = parent.intermediate_size[run[0]]
        rows.append(LayerRow(written(run), count, f"{width:,}", f"{width / full:.3g}"))
    return rows


def quantised_rows(checkpoint: QuantisedCheckpoint) -> list[SizeRow]:
    """What a quantised checkpoint is, one fact per row."""
    text, packed = checkpoint.text, sum(checkpoint.weights.values())
    widths = [
        f"{width:,} ({written(run)})" if len(set(text.intermediate_size)) > 1 else f"{width:,}"
        for run, width in runs_of(text.intermediate_size)
    ]
    rows = [
        ("quantised", checkpoint.how),
        ("quantised weights", f"{packed} of {len(checkpoint.weights)}"),
        ("layers", f"{text.num_hidden_layers}"),
        ("FFN width", ", ".join(widths)),
        ("tensor bytes", f"{checkpoint.nbytes:,}"),
    ]
    return [SizeRow(label, value) for label, value in rows]


def runtime_rows(checkpoint: Plan | Parent | QuantisedCheckpoint) -> list[RuntimeRow]:
    """What each runtime does with a plan's child, or a checkpoint as it lies there."""
    return [
        RuntimeRow(f"{one.runtime} {one.version}", one.verdict, one.explained)
        for one in runtime_verdicts(checkpoint)
    ]

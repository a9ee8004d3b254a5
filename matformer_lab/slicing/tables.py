"""A plan as rows of text: what the terminal, the model card and the notebook all show."""

from collections.abc import Sequence
from html import escape
from typing import Final

from matformer_lab.slicing.plan import Plan
from matformer_lab.slicing.runtimes import runtime_verdicts
from matformer_lab.slicing.sizes import sizes_of

LAYER_HEAD: Final = ("parent layers", "attention", "FFN width", "of the parent's")
RUNTIME_HEAD: Final = ("runtime", "verdict", "why")


def runs(layers: Sequence[int]) -> str:
    """`[20, 21, 22, 30]` -> `20-22, 30`."""
    found: list[list[int]] = []
    for layer in layers:
        if found and found[-1][1] == layer - 1:
            found[-1][1] = layer
        else:
            found.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def size_rows(plan: Plan, context: int | None = None) -> list[tuple[str, str]]:
    """Sizes of the child, one a row. `context` in tokens for the K/V cache."""
    size = sizes_of(plan, context)
    return [
        ("layers", f"{plan.text.num_hidden_layers} of {plan.parent.text.num_hidden_layers}"),
        ("skipped parent layers", runs(plan.slice.skipped) or "none"),
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
    parent = plan.parent.text
    width_of = dict(zip(plan.kept, plan.slice.widths, strict=True))
    groups: list[list[int]] = []
    for layer in plan.kept:
        if groups and groups[-1][-1] == layer - 1 and width_of[layer - 1] == width_of[layer]:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    rows = []
    for group in groups:
        kinds = [parent.layer_types[layer].removesuffix("_attention") for layer in group]
        count = " + ".join(f"{kinds.count(k)} {k}" for k in ("sliding", "full") if k in kinds)
        width, full = width_of[group[0]], parent.intermediate_size[group[0]]
        rows.append((runs(group), count, f"{width:,}", f"{width / full:.3g}"))
    return rows


def runtime_rows(plan: Plan) -> list[tuple[str, str, str]]:
    """What each runtime makes of the child."""
    return [(f"{v.runtime} {v.version}", v.verdict, v.why) for v in runtime_verdicts(plan)]


def plan_html(plan: Plan) -> str:
    """The plan for a notebook."""
    title = f"<b>{escape(plan.slice.name)}</b> of {escape(plan.parent.name)}"
    tables = [
        html_table(("", ""), size_rows(plan)),
        html_table(LAYER_HEAD, layer_rows(plan)),
        html_table(RUNTIME_HEAD, runtime_rows(plan)),
    ]
    row = "display:flex;flex-wrap:wrap;gap:1em 2em;align-items:flex-start"
    return f"<div>{title}<div style='{row}'>{''.join(tables)}</div></div>"


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain HTML table, every cell escaped."""
    cells = "".join(f"<th style='text-align:left'>{escape(cell)}</th>" for cell in head)
    lines = [
        "<tr>" + "".join(f"<td style='text-align:left'>{escape(c)}</td>" for c in row) + "</tr>"
        for row in rows
    ]
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"

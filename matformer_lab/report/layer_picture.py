"""The picture of a slice: a column for each of the parent's layers, in SVG and in words."""

from __future__ import annotations

from matformer_lab.results.tables.description import ParentInfo, ScoredSlice
from matformer_lab.slicing.layer_runs import runs_of

# In SVG units: the pitch of the columns, the width of a bar, the height of the highest, and the
# places of the attention marks and the K/V rule below.
_PITCH, _BAR, _HIGH, _MARK, _RULE = 10, 8, 46, 54, 60


def viewbox(parent: ParentInfo) -> str:
    """The `viewBox` of the SVG around a picture."""
    return f"0 0 {_PITCH * parent.num_hidden_layers} {_RULE + 2}"


def layer_picture(parent: ParentInfo, scored: ScoredSlice) -> str:
    """The SVG shapes of a slice, one column per layer of the parent.

    A column is as high as the layer's FFN is wide, skipped layers are hollow, a dot marks full
    attention and a rule the layers that reuse K/V. The shapes hold numbers only, no text of a user.
    """
    widths = scored.slice.by_layer(parent.num_hidden_layers)
    top = max(parent.intermediate_size)
    track, hole = "", ""
    bars, marks = {"": "", " full": ""}, {"": "", " gone": ""}
    for layer, whole in enumerate(parent.intermediate_size):
        x = _PITCH * layer + (_PITCH - _BAR) / 2
        outline = _rectangle(x, _HIGH * whole / top)
        full = parent.layer_types[layer] == "full_attention"
        if layer in widths:
            track += outline
            bars[" full" if full else ""] += _rectangle(x, _HIGH * widths[layer] / top)
        else:
            hole += outline
        if full:
            centre = _PITCH * layer + _PITCH / 2
            marks["" if layer in widths else " gone"] += (
                f"M{centre - 2:g} {_MARK}a2 2 0 1 0 4 0a2 2 0 1 0 -4 0z"
            )
    shapes = [
        ("track", track),
        *((f"ffn{kind}", path) for kind, path in bars.items()),
        ("hole", hole),
    ]
    shapes += [(f"mark{kind}", path) for kind, path in marks.items()]
    shared = parent.first_kv_shared_layer
    if shared < parent.num_hidden_layers:
        shapes.append(
            ("shared", f"M{_PITCH * shared + 1} {_RULE}H{_PITCH * parent.num_hidden_layers - 1}")
        )
    return "".join(f'<path class="{kind}" d="{path}"/>' for kind, path in shapes if path)


def _rectangle(x: float, height: float) -> str:
    return f"M{x:g} {_HIGH + 2 - height:.4g}h{_BAR}v{height:.4g}h-{_BAR}z"


def describe_layers(parent: ParentInfo, scored: ScoredSlice) -> str:
    """The layer picture in words: runs of equal width, and what is skipped."""
    widths = scored.slice.by_layer(parent.num_hidden_layers)
    parts = [
        (f"layer {run[0]}: " if len(run) == 1 else f"layers {run[0]} to {run[-1]}: ")
        + ("skipped" if width is None else f"{width:,}")
        for run, width in runs_of([widths.get(n) for n in range(parent.num_hidden_layers)])
    ]
    full = [str(k) for k, kind in enumerate(parent.layer_types) if kind == "full_attention"]
    return (
        f"FFN widths of {scored.name}. "
        + "; ".join(parts)
        + f". Full attention at {', '.join(full)}."
    )

"""slices.yaml: the found slices, written so that a person sees the pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from matformer_lab.gemma3n import TextConfig
from matformer_lab.search.method.space import Pattern
from matformer_lab.slicing.layer_runs import runs_of, written, written_layers

_LARGEST_DENOMINATOR = 64


def slices_yaml(
    parent: str,
    text: TextConfig,
    found: Mapping[str, Pattern],
    descriptions: Mapping[str, str],
    provenance: Sequence[str],
) -> str:
    """The file's text.

    Args:
        parent: As the recipe names it.
        text: The parent's config.
        found: The slices by name.
        descriptions: A line about each.
        provenance: Lines about where they come from, which become comments.
    """
    lines = [f"# {line}" for line in provenance]
    lines += [f"parent: {_quoted(parent)}", "slices:"]
    for name, pattern in found.items():
        lines += [
            "",
            f"  - name: {_quoted(name)}",
            f"    description: {_quoted(descriptions[name])}",
            f"    widths: {_widths(pattern, text)}",
        ]
        skipped = [layer for layer, width in enumerate(pattern) if not width]
        if skipped:
            lines.append(f"    skip: [{written_layers(skipped)}]")
    return "\n".join(lines) + "\n"


def _widths(pattern: Pattern, text: TextConfig) -> str:
    names = [
        _width(width, text.intermediate_size[layer]) if width else None
        for layer, width in enumerate(pattern)
    ]
    kept = {name for name in names if name}
    if len(kept) == 1:
        return kept.pop()
    runs = [f"{written(run)}: {name}" for run, name in runs_of(names) if name]
    return "{" + ", ".join(runs) + "}"


def _width(width: int, full: int) -> str:
    share = Fraction(width, full)
    if share == 1:
        return "full"
    return str(share) if share.denominator <= _LARGEST_DENOMINATOR else str(width)


def _quoted(text: str) -> str:
    """Text as YAML in double quotes, which JSON's are."""
    import json

    return json.dumps(text)

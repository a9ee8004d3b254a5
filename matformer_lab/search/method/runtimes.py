"""Only slices that given runtimes load: a space narrowed by the table of verdicts.

The verdicts (`slicing.runtimes`) judge one plan at a time. What they say about a few telling slices
(one narrower layer, one skipped layer) says which choices are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matformer_lab.common.errors import InputError
from matformer_lab.parent.parent import Parent
from matformer_lab.search.method.space import Pattern, Space, slice_of
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.runtimes import RuntimeVerdict, runtime_verdicts


def for_runtimes(parent: Parent, space: Space, runtimes: Sequence[str]) -> Space:
    """The part of a space that all of the runtimes load and compute right.

    Raises:
        InputError: When a runtime is unknown, or loads no slice of this parent.
    """
    if not runtimes:
        return space
    known = [verdict.runtime for verdict in _verdicts(parent, space.full)]
    for runtime in runtimes:
        if runtime not in known:
            raise InputError(
                f"search.runtimes: no verdicts about {runtime!r:.60}; there are some about "
                f"{', '.join(dict.fromkeys(known))}"
            )
    for verdict in refused(parent, space.full, runtimes):
        raise InputError(
            f"search.runtimes: {verdict.runtime} {verdict.version} loads no slice of {parent.ref}: "
            f"{verdict.verdict}{f' ({verdict.why})' if verdict.why else ''}"
        )
    if _is_mixed_refused(parent, space, runtimes):
        space = replace(space, uniform=True)
    base = space.full
    choices = tuple(
        tuple(
            width for width in each if width or not _skip_refused(parent, base, {layer}, runtimes)
        )
        for layer, each in enumerate(space.choices)
    )
    if space.skip_sets is None:
        return replace(space, choices=choices)
    sets = tuple(
        each for each in space.skip_sets if not _skip_refused(parent, base, each, runtimes)
    )
    if not sets:
        raise InputError(
            f"search.skip: {', '.join(runtimes)} loads a slice with none of these sets of skipped "
            "layers; add [] for slices without skips"
        )
    kept = {layer for each in sets for layer in each}
    choices = tuple(
        tuple(width for width in each if width or layer in kept)
        for layer, each in enumerate(space.choices)
    )
    return replace(space, choices=choices, skip_sets=sets)


def refused(parent: Parent, pattern: Pattern, runtimes: Sequence[str]) -> list[RuntimeVerdict]:
    """The verdicts against a slice, of those runtimes that were asked for."""
    return [
        verdict
        for verdict in _verdicts(parent, pattern)
        if verdict.runtime in runtimes and verdict.verdict != "ok"
    ]


def _verdicts(parent: Parent, pattern: Pattern) -> tuple[RuntimeVerdict, ...]:
    return runtime_verdicts(make_plan(parent, slice_of(pattern, "tried")))


def _is_mixed_refused(parent: Parent, space: Space, runtimes: Sequence[str]) -> bool:
    if space.widths < 2:
        return False
    last = len(space.full) - 1
    mixed = (*space.full[:last], space.at(0)[last])
    return bool(refused(parent, mixed, runtimes))


def _skip_refused(
    parent: Parent, base: Pattern, layers: set[int] | frozenset[int], runtimes: Sequence[str]
) -> bool:
    if not layers or layers & parent.text.kv_sources:
        return False
    skipped = tuple(0 if layer in layers else width for layer, width in enumerate(base))
    return bool(refused(parent, skipped, runtimes))

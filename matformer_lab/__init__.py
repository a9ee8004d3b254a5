"""Slice, score and plot the models nested inside Gemma 3n E4B.

    import matformer_lab as ml

    parent = ml.open_parent("tiny")
    small = ml.resolve_slice("e2b", parent.text)
    ml.make_plan(parent, small)                  # a table in a notebook
    ml.write_checkpoint(ml.make_plan(parent, small), Path("e2b"))
    ml.ElasticParent.load(parent).live(small)    # a live model, no copy

Names are imported when first used, so that `import matformer_lab` stays instant.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from matformer_lab.catalog import resolve_slice, resolve_slices
    from matformer_lab.elastic import ElasticParent
    from matformer_lab.errors import InputError
    from matformer_lab.extract import write_checkpoint
    from matformer_lab.parent import Parent, open_parent
    from matformer_lab.plan import Plan, make_plan
    from matformer_lab.sizes import Sizes, sizes_of
    from matformer_lab.slices import Slice
    from matformer_lab.verify import verify_checkpoint

_HOME = {
    "ElasticParent": "elastic",
    "InputError": "errors",
    "Parent": "parent",
    "Plan": "plan",
    "Sizes": "sizes",
    "Slice": "slices",
    "make_plan": "plan",
    "open_parent": "parent",
    "resolve_slice": "catalog",
    "resolve_slices": "catalog",
    "sizes_of": "sizes",
    "verify_checkpoint": "verify",
    "write_checkpoint": "extract",
}

__all__ = [
    "ElasticParent",
    "InputError",
    "Parent",
    "Plan",
    "Sizes",
    "Slice",
    "make_plan",
    "open_parent",
    "resolve_slice",
    "resolve_slices",
    "sizes_of",
    "verify_checkpoint",
    "write_checkpoint",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        return getattr(import_module(f"matformer_lab.{_HOME[name]}"), name)
    raise AttributeError(f"module 'matformer_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

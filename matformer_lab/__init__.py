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
    from matformer_lab.compare import compare_sweeps
    from matformer_lab.editor import SliceEditor
    from matformer_lab.elastic import ElasticParent
    from matformer_lab.errors import InputError
    from matformer_lab.extract import write_checkpoint
    from matformer_lab.family import write_family
    from matformer_lab.finished import Finished
    from matformer_lab.parent import Parent, open_parent
    from matformer_lab.plan import Plan, make_plan
    from matformer_lab.read_sweep import read_finished
    from matformer_lab.recipe import Recipe, load_recipe, parse_recipe
    from matformer_lab.report import write_report
    from matformer_lab.results import load_results
    from matformer_lab.sizes import Sizes, sizes_of
    from matformer_lab.slices import Slice
    from matformer_lab.sweep import run_sweep
    from matformer_lab.verify import verify_checkpoint

_HOME = {
    "ElasticParent": "elastic",
    "Finished": "finished",
    "InputError": "errors",
    "Parent": "parent",
    "Plan": "plan",
    "Recipe": "recipe",
    "Sizes": "sizes",
    "Slice": "slices",
    "SliceEditor": "editor",
    "compare_sweeps": "compare",
    "load_recipe": "recipe",
    "load_results": "results",
    "make_plan": "plan",
    "open_parent": "parent",
    "parse_recipe": "recipe",
    "read_finished": "read_sweep",
    "resolve_slice": "catalog",
    "resolve_slices": "catalog",
    "run_sweep": "sweep",
    "sizes_of": "sizes",
    "verify_checkpoint": "verify",
    "write_checkpoint": "extract",
    "write_family": "family",
    "write_report": "report",
}

__all__ = [
    "ElasticParent",
    "Finished",
    "InputError",
    "Parent",
    "Plan",
    "Recipe",
    "Sizes",
    "Slice",
    "SliceEditor",
    "compare_sweeps",
    "load_recipe",
    "load_results",
    "make_plan",
    "open_parent",
    "parse_recipe",
    "read_finished",
    "resolve_slice",
    "resolve_slices",
    "run_sweep",
    "sizes_of",
    "verify_checkpoint",
    "write_checkpoint",
    "write_family",
    "write_report",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        return getattr(import_module(f"matformer_lab.{_HOME[name]}"), name)
    raise AttributeError(f"module 'matformer_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

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
    from matformer_lab.checkpoint.extract import write_checkpoint
    from matformer_lab.checkpoint.family import write_family
    from matformer_lab.checkpoint.verify import verify_checkpoint
    from matformer_lab.common.errors import InputError
    from matformer_lab.live.elastic import ElasticParent
    from matformer_lab.notebook.editor import SliceEditor
    from matformer_lab.parent.parent import Parent, open_parent
    from matformer_lab.report.report import write_report
    from matformer_lab.results.compare import compare_sweeps
    from matformer_lab.results.finished import Finished
    from matformer_lab.results.read_sweep import read_finished
    from matformer_lab.results.results import load_results
    from matformer_lab.slicing.catalog import resolve_slice, resolve_slices
    from matformer_lab.slicing.plan import Plan, make_plan
    from matformer_lab.slicing.sizes import Sizes, sizes_of
    from matformer_lab.slicing.slices import Slice
    from matformer_lab.sweep.recipe import Recipe, load_recipe, parse_recipe
    from matformer_lab.sweep.sweep import run_sweep

_HOME = {
    "ElasticParent": "live.elastic",
    "Finished": "results.finished",
    "InputError": "common.errors",
    "Parent": "parent.parent",
    "Plan": "slicing.plan",
    "Recipe": "sweep.recipe",
    "Sizes": "slicing.sizes",
    "Slice": "slicing.slices",
    "SliceEditor": "notebook.editor",
    "compare_sweeps": "results.compare",
    "load_recipe": "sweep.recipe",
    "load_results": "results.results",
    "make_plan": "slicing.plan",
    "open_parent": "parent.parent",
    "parse_recipe": "sweep.recipe",
    "read_finished": "results.read_sweep",
    "resolve_slice": "slicing.catalog",
    "resolve_slices": "slicing.catalog",
    "run_sweep": "sweep.sweep",
    "sizes_of": "slicing.sizes",
    "verify_checkpoint": "checkpoint.verify",
    "write_checkpoint": "checkpoint.extract",
    "write_family": "checkpoint.family",
    "write_report": "report.report",
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

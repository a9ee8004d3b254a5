"""Slice, score and plot the models nested inside Gemma 3n E4B.

    import matformer_lab as ml

    parent = ml.open_parent("tiny")
    small = ml.resolve_slice("e2b", parent)
    plan = ml.make_plan(parent, small)              # a table in a notebook
    ml.write_checkpoint(plan, "e2b")
    model = ml.ElasticParent.load(parent).live(small)   # shares the parent's memory

The names are listed in `__init__.pyi` and imported when first used, so that `import matformer_lab`
stays light. It makes `matformer` known to lm-eval, and plans and sweeps known to Jupyter.
"""

import sys as _sys

from matformer_lab.cli.starting import is_command as _is_command

if _is_command():
    from matformer_lab.cli.starting import started as _started

    _started()  # before the imports below, which take a while and may be interrupted

import lazy_loader as _lazy

from matformer_lab.common.version import __version__ as __version__

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

if not _is_command():  # which has no use for it and starts sooner
    from matformer_lab.evaluation.models.registration import register_model as _register_model

    _register_model()
if "IPython" in _sys.modules and (_shell := _sys.modules["IPython"].get_ipython()):
    from matformer_lab.notebook.html import register as _register_formatters

    _register_formatters(_shell)

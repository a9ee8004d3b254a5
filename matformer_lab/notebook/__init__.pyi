"""For Jupyter: the slice editor, and plans and sweeps as HTML tables."""

from .editor import SliceEditor as SliceEditor
from .html import plan_html as plan_html
from .html import sweep_html as sweep_html

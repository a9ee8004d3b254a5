"""A pytest plugin: declares torchvision's compiled operators where its wheel does not fit torch's.

torchvision from the package index is built against a CUDA torch. Beside a CPU build its library of
compiled operators cannot be loaded, and then the import fails at their declarations. Pictures are
resized by torch's own operators; the declared ones (for detection) are never called.
"""

from importlib import import_module
from typing import Any

from torch import library

try:
    import_module("torchvision")
except RuntimeError:
    make: Any = library.Library
    declared = make("torchvision", "DEF")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import_module("torchvision")

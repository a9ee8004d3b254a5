"""Slices as people write them: names, widths, YAML, Google's CSV, samplers."""

from .catalog import resolve_slice as resolve_slice
from .catalog import resolve_slices as resolve_slices
from .sampler import SamplerSpec as SamplerSpec
from .spec import SliceSpec as SliceSpec
from .width import Width as Width

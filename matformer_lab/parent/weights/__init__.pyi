"""The weight files of a checkpoint: which they are, and what their tensors are."""

from .headers import TensorInfo as TensorInfo
from .headers import parse_header as parse_header
from .headers import read_header as read_header
from .weight_files import WeightFiles as WeightFiles
from .weight_files import read_weight_files as read_weight_files
from .weight_scan import scan as scan

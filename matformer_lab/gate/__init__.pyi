"""The CI gate: did a slice get worse than its baseline?"""

from .baseline import Baseline as Baseline
from .result import Check as Check
from .result import GateResult as GateResult
from .run import run_gate as run_gate

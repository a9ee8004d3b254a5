"""Is this checkpoint exactly that slice?"""

from .verify import Verification as Verification
from .verify import compare_checkpoints as compare_checkpoints
from .verify import verify_checkpoint as verify_checkpoint

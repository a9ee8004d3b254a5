"""The public names, in the order of the data. `import matformer_lab as ml` shows exactly these."""

from .checkpoint.adapter import SlicedAdapter as SlicedAdapter
from .checkpoint.adapter import slice_adapter as slice_adapter
from .checkpoint.family import add_to_family as add_to_family
from .checkpoint.family import write_family as write_family
from .checkpoint.slices import Written as Written
from .checkpoint.slices import write_slices as write_slices
from .checkpoint.verification.result import Verification as Verification
from .checkpoint.verification.verify import compare_checkpoints as compare_checkpoints
from .checkpoint.verification.verify import verify_checkpoint as verify_checkpoint
from .checkpoint.write import write_checkpoint as write_checkpoint
from .common.errors import InputError as InputError
from .evaluation.models.prefix_scorer import PrefixScorer as PrefixScorer
from .evaluation.tokenizer import load_tokenizer as load_tokenizer
from .gate.result import GateResult as GateResult
from .gate.run import run_gate as run_gate
from .live.elastic import ElasticParent as ElasticParent
from .notebook.editor import SliceEditor as SliceEditor
from .parent.opening import open_parent as open_parent
from .parent.parent import Parent as Parent
from .publish.push import Pushed as Pushed
from .publish.push import push as push
from .report.write import write_report as write_report
from .results.compare import compare_sweeps as compare_sweeps
from .results.load import load_results as load_results
from .results.load import load_samples as load_samples
from .results.read import read_sweep as read_sweep
from .results.sweep_results import SweepResults as SweepResults
from .slicing.builtin_slices import builtin_slices as builtin_slices
from .slicing.notation.catalog import resolve_slice as resolve_slice
from .slicing.notation.catalog import resolve_slices as resolve_slices
from .slicing.plan import Plan as Plan
from .slicing.plan import make_plan as make_plan
from .slicing.runtimes import RuntimeVerdict as RuntimeVerdict
from .slicing.runtimes import runtime_verdicts as runtime_verdicts
from .slicing.sizes import Sizes as Sizes
from .slicing.sizes import sizes_of as sizes_of
from .slicing.slice import Slice as Slice
from .sweep.executors.ray_executor import ray_cluster as ray_cluster
from .sweep.recipe import Recipe as Recipe
from .sweep.recipe import load_recipe as load_recipe
from .sweep.recipe import parse_recipe as parse_recipe
from .sweep.run import dry_run as dry_run
from .sweep.run import run_sweep as run_sweep
from .sweep.status import DryRun as DryRun

__version__: str

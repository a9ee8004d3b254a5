"""NaN is never a score: nothing is stored, and the error names slice, task, item and dtype."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.models.matformer_lm import MatformerLM
from matformer_lab.sweep.recipe import parse_recipe
from matformer_lab.sweep.run import run_sweep
from tests.support.sweeps import stored

Break = Callable[[torch.Tensor], None]


def broken(parent: Path, folder: Path, change: Break) -> Path:
    """A copy in which slices of full width have a damaged FFN, and narrow ones do not."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(parent, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights["model.layers.8.mlp.up_proj.weight"][-1:])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def to_nan(rows: torch.Tensor) -> None:
    rows.fill_(torch.nan)


def to_infinity(rows: torch.Tensor) -> None:
    rows.fill_(torch.inf)


def overflowing(rows: torch.Tensor) -> None:
    rows.fill_(60_000.0)


def run(out: Path, parent: Path, **changes: Any) -> Path:
    recipe = {
        "parent": str(parent),
        "slices": ["full", "1/4"],
        "tasks": ["tiny_mmlu"],
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 4,
        "limit": 2,
        **changes,
    }
    return run_sweep(parse_recipe(recipe), out, report=False)


@pytest.mark.parametrize("scorer", ["prefix", "lm-eval"])
@pytest.mark.parametrize(
    ("change", "dtype", "says"),
    [
        (to_nan, "float32", "check the weights"),
        (to_infinity, "bfloat16", "check the weights"),
        (overflowing, "float16", "use bfloat16"),
    ],
)
def test_a_slice_without_numbers_has_no_score(
    change: Break, dtype: str, says: str, scorer: str, scorable: Path, tmp_path: Path
) -> None:
    parent = broken(scorable, tmp_path / "parent", change)
    with warnings.catch_warnings(), pytest.raises(InputError) as caught:
        warnings.simplefilter("ignore")  # the tensor at fault, named before: see below
        run(tmp_path / "out", parent, dtype=dtype, scorer=scorer)
    message = str(caught.value)
    assert message.startswith("slice uniform-full: tiny_mmlu_") and "\n" not in message
    assert f"item 0: the log-probability of an answer is nan in {dtype}" in message
    assert says in message
    assert len(stored(tmp_path / "out")) == 1  # the other slice's score is whole, and kept
    assert not (tmp_path / "out" / "results.parquet").exists()
    run(tmp_path / "out", parent, dtype=dtype, scorer=scorer, slices=["1/4"])


@pytest.mark.parametrize("change", [to_nan, to_infinity])
def test_weights_that_are_no_numbers_are_named_before_a_sweep_starts(
    change: Break, scorable: Path, tmp_path: Path
) -> None:
    parent = broken(scorable, tmp_path / "parent", change)
    says = r"NaN or infinity in model\.layers\.8\.mlp\.up_proj\.weight"
    with pytest.raises(InputError, match=f"{says}, so there would be no score"):
        run(tmp_path / "out", parent, slices=["full"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError), pytest.warns(UserWarning, match=f"{says}.*uniform-full"):
        run(tmp_path / "out", parent)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a narrow slice does not have the bad rows
        run(tmp_path / "out", parent, slices=["1/4"])


def test_ones_own_use_of_lm_eval_is_stopped_too(scorable: Path, tmp_path: Path) -> None:
    import lm_eval

    from matformer_lab import tiny
    from matformer_lab.evaluation.tasks.datasets import mapped_datasets

    parent = broken(scorable, tmp_path / "parent", to_nan)
    manager = lm_eval.tasks.TaskManager(include_path=tiny.tasks_dir(), include_defaults=False)
    model = MatformerLM(parent=str(parent), slice="full", dtype="float32", device="cpu")
    with (
        mapped_datasets(tiny.datasets_dir()),
        pytest.raises(InputError, match=r"tiny_boolq, item 0: .* is nan in float32"),
    ):
        lm_eval.simple_evaluate(model, tasks=["tiny_boolq"], task_manager=manager, limit=2)


def test_generated_text_of_nan_is_no_answer(scorable: Path, tmp_path: Path) -> None:
    """Without a check, the likeliest token of NaN is the first one, and the score is 0."""
    from matformer_lab.evaluation.finite import NotFiniteError, finite_logits
    from matformer_lab.live.elastic import ElasticParent
    from matformer_lab.parent.opening import open_parent
    from matformer_lab.slicing.notation.catalog import resolve_slice

    parent = open_parent(str(broken(scorable, tmp_path / "parent", to_nan)))
    elastic = ElasticParent.load(parent, dtype=torch.float32)
    prompt = torch.tensor([[2, 5, 6]])
    narrow: Any
    wide: Any
    narrow, wide = (elastic.live(resolve_slice(name, parent)) for name in ("1/4", "full"))
    with finite_logits(narrow, "gsm8k"):
        narrow.generate(prompt, max_new_tokens=2, do_sample=False)
    with pytest.raises(NotFiniteError, match="gsm8k"), finite_logits(wide, "gsm8k"):
        wide.generate(prompt, max_new_tokens=2, do_sample=False)

"""The calls that the documentation promises, as written, on `tiny` and on a parent on the Hub."""

from pathlib import Path

import pytest

from matformer_lab import tiny
from tests.support.command import run_offline
from tests.support.hub_server import serving

REPO = "someone/gemma-3n-tiny"
SCRIPT = """
import lm_eval
from lm_eval.tasks import TaskManager

import matformer_lab as ml
from matformer_lab import tiny
from matformer_lab.evaluation.tasks.datasets import mapped_datasets

parent = ml.open_parent("{ref}")
small = ml.resolve_slice("e2b", parent)
ml.write_checkpoint(ml.make_plan(parent, small), "e2b")
assert ml.verify_checkpoint("e2b", parent).ok and ml.verify_checkpoint("e2b").ok
assert len(ml.write_slices(parent, ["1/2", "1/4"], "family").folders) == 2
assert ml.verify_checkpoint("family", parent).ok
model = ml.ElasticParent.load(parent).live(small)
tokenizer = ml.load_tokenizer(parent)
settings = dict(
    tasks=["tiny_boolq"], limit=6, bootstrap_iters=0,
    task_manager=TaskManager(include_path=str(tiny.tasks_dir()), include_defaults=False),
)
with mapped_datasets(None, tiny.datasets_dir()):
    by_object = lm_eval.simple_evaluate(model=ml.PrefixScorer(model, tokenizer), **settings)
    by_name = lm_eval.simple_evaluate(
        model="matformer", model_args={{"parent": "{ref}", "slice": "e2b"}}, **settings
    )
sweep = ml.run_sweep(ml.load_recipe("recipe.yaml"), "runs/mine")
results = ml.load_results("runs/mine")
(score,) = results.loc[results["primary"], "value"]
assert by_object["results"]["tiny_boolq"]["acc,none"] == score
assert by_name["results"]["tiny_boolq"]["acc,none"] == score
assert len(ml.load_samples(sweep)) == 6
assert list(ml.read_sweep("runs/mine").scores()["slice"]) == ["e2b"]
assert all(status.state == "done" for status in ml.dry_run("recipe.yaml", "runs/mine").jobs)
assert ml.run_gate("runs/mine", "baseline.yaml", update=True).ok
assert ml.run_gate("runs/mine", "baseline.yaml").ok
assert ml.write_report("runs/mine").name == "report.html"
print("all of it")
"""


@pytest.mark.parametrize("place", [pytest.param("here", marks=pytest.mark.slow), "on the Hub"])
def test_the_promised_calls(tmp_path: Path, place: str) -> None:
    ref = "tiny" if place == "here" else REPO
    recipe = f"parent: {ref}\nslices: [e2b]\ntasks: [tiny_boolq]\nlimit: 6\ndtype: float32\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    (tmp_path / "script.py").write_text(SCRIPT.format(ref=ref))
    with serving(REPO, tiny.model_dir()) as hub:
        env = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ""}
        env |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1" if place == "here" else "0"}
        env |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(Path.cwd())}
        done = run_offline("script.py", cwd=tmp_path, env=env)
    assert done.code == 0, done.err
    assert done.out.endswith("all of it\n")
    assert bool(hub.weights_served()) is (place == "on the Hub")

"""`dtype: auto`: the stored dtype where the hardware multiplies it."""

from pathlib import Path

import pytest
import torch

import matformer_lab as ml
from matformer_lab.live.compute_dtype import compute_dtype, multiplies, slow_on
from tests.support.command import run_here


def a_cpu_with(monkeypatch: pytest.MonkeyPatch, *instructions: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))


@pytest.mark.parametrize(
    ("instructions", "stored", "device", "wanted"),
    [
        ((), "BF16", "cpu", "float32"),
        (("avx2", "avx512_f", "avx512_fp16"), "BF16", "cpu", "float32"),
        (("avx512_bf16",), "BF16", "cpu", "bfloat16"),
        (("amx_bf16",), "BF16", "cpu", "bfloat16"),
        (("amx_bf16",), "F16", "cpu", "float32"),
        ((), "F32", "cpu", "float32"),
        ((), "BF16", "cuda:1", "bfloat16"),
        ((), "F16", "mps", "float16"),
    ],
)
def test_auto(
    instructions: tuple[str, ...],
    stored: str,
    device: str,
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_cpu_with(monkeypatch, *instructions)
    chosen = compute_dtype("auto", stored, device)
    assert chosen.name == wanted and chosen.reason


def test_what_is_asked_for_is_what_one_gets_and_its_cost_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_cpu_with(monkeypatch)
    assert compute_dtype("bfloat16", "F32", "cpu").name == "bfloat16"
    assert "five times as long" in str(slow_on("bfloat16", "cpu"))
    assert slow_on("float32", "cpu") is slow_on("bfloat16", "cuda") is None
    a_cpu_with(monkeypatch, "avx512_bf16")
    assert slow_on("bfloat16", "cpu") is None


def test_this_machine_is_asked() -> None:
    assert isinstance(multiplies("bfloat16"), bool)


def test_a_finished_recipe_says_which_and_why(
    scorable_bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_cpu_with(monkeypatch)
    recipe = {"parent": str(scorable_bf16), "slices": ["1/2"], "tasks": ["tiny_boolq"], "limit": 2}
    out = ml.run_sweep(ml.parse_recipe(recipe), tmp_path / "out", report=False, progress=False)
    sweep = ml.read_sweep(out)
    assert sweep.dtype == sweep.recipe["dtype"] == "float32"
    assert sweep.recipe["as_run"]["dtype"] == {
        "asked": "auto",
        "reason": "this CPU has no instructions for bfloat16",
    }
    assert set(ml.load_results(out)["dtype"]) == {"float32"}


def test_a_slow_dtype_is_named_in_one_line(
    scorable_bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_cpu_with(monkeypatch)
    (tmp_path / "r.yaml").write_text(
        f"parent: {scorable_bf16}\nslices: [1/2]\ntasks: [tiny_boolq]\nlimit: 2\ndtype: bfloat16\n"
    )
    done = run_here("sweep", tmp_path / "r.yaml", "--out", tmp_path / "out", "--dry-run")
    assert done.code == 0 and done.err.count("\n") == 1, done.err
    assert "--dtype" not in done.err and "`dtype` is bfloat16" in done.err

"""The gate: fails on damage, passes on noise, and says so in three formats."""

import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file, save_file

from matformer_lab import tiny
from matformer_lab.common.errors import InputError
from matformer_lab.gate.baseline import TaskBaseline, decode, encode
from matformer_lab.gate.markdown import to_markdown
from matformer_lab.gate.result import GateResult
from matformer_lab.gate.run import run_gate
from tests.support.command import CommandResult, run_here
from tests.support.synthetic import SLICES, Made, write_results, write_sweep

SOME = tuple(made for made in SLICES if made.name in ("e4b", "e2b", "e2.98b-layer"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweeps") / "good", slices=SOME, scale=0.1)


@pytest.fixture(scope="module")
def baseline(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("baseline") / "baseline.yaml"
    assert run_gate(good, path, update=True).ok
    return path


def statuses(result: GateResult) -> dict[tuple[str, str], str]:
    return {(check.slice, check.task): check.status for check in result.checks}


def test_the_sweep_itself_passes_without_a_change(good: Path, baseline: Path) -> None:
    result = run_gate(good, baseline)
    assert result.ok and not result.updated and not result.notes
    assert set(statuses(result)) == {
        (made.name, task) for made in SOME for task in ("hellaswag", "boolq", "mmlu", "average")
    }
    assert {check.drop for check in result.checks} == {0.0}
    assert set(statuses(result).values()) == {"pass"}


def test_noise_passes(baseline: Path, tmp_path: Path) -> None:
    for seed in range(3):
        noisy = write_sweep(tmp_path / str(seed), slices=SOME, scale=0.1, noise=0.004 * (seed + 1))
        result = run_gate(noisy, baseline)
        assert result.ok, result.summary
        assert any(check.drop for check in result.checks)  # something did change


def test_a_damaged_slice_fails_and_only_that_one(baseline: Path, tmp_path: Path) -> None:
    damaged = write_sweep(tmp_path / "damaged", slices=SOME, scale=0.1, drop={"e2b": 1.5})
    result = run_gate(damaged, baseline)
    assert not result.ok
    assert {check.slice for check in result.failed} == {"e2b"}
    assert ("e2b", "mmlu") in {(check.slice, check.task) for check in result.failed}
    assert "e2b" in result.summary and "\n" not in result.summary
    for check in result.failed:
        assert check.low is not None and check.low > 0.01
        assert check.p is None or check.p < 0.05


def test_a_drop_within_the_allowance_passes(baseline: Path, tmp_path: Path) -> None:
    damaged = write_sweep(tmp_path / "damaged", slices=SOME, scale=0.1, drop={"e2b": 1.5})
    assert not run_gate(damaged, baseline, max_drop=1.0).ok
    assert run_gate(damaged, baseline, max_drop=40.0).ok


def test_the_same_flips_fail_or_not_by_their_sum(
    good: Path, baseline: Path, tmp_path: Path
) -> None:
    """Paired: 40 items lost fails; 40 lost and 40 won, the same discordance, does not."""
    for name, lost, won in (("lost", 60, 0), ("swapped", 60, 60)):
        folder = write_sweep(tmp_path / name, slices=SOME, scale=0.1)
        path = folder / "samples" / "e2b" / "hellaswag.parquet"
        table = pd.read_parquet(path)
        right, wrong = (
            np.flatnonzero(table["acc_norm"] == 1),
            np.flatnonzero(table["acc_norm"] == 0),
        )
        column = table["acc_norm"].to_numpy().copy()
        column[right[:lost]], column[wrong[:won]] = 0, 1
        table["acc_norm"] = column
        table.to_parquet(path)
        results = pd.read_parquet(folder / "results.parquet")
        here = (results["slice"] == "e2b") & (results["task"] == "hellaswag")
        results.loc[here, "value"] = column.mean()
        write_results(folder, results)
        found = statuses(run_gate(folder, baseline))[("e2b", "hellaswag")]
        assert found == ("fail" if name == "lost" else "pass")


def test_a_slice_on_one_side_only_fails_unless_it_is_allowed(
    baseline: Path, tmp_path: Path
) -> None:
    new = Made("brand-new", (1, 2, 3))
    other = write_sweep(tmp_path / "other", slices=(*SOME[:2], new), scale=0.1)
    result = run_gate(other, baseline)
    found = statuses(result)
    assert not result.ok
    assert found[(SOME[2].name, "mmlu")] == "missing"
    assert found[("brand-new", "mmlu")] == "new"
    assert {check.slice for check in result.failed} == {SOME[2].name, "brand-new"}
    assert "missing from the sweep" in result.summary and "not in the baseline" in result.summary
    cases: list[tuple[bool, bool, set[str]]] = [
        (True, False, {SOME[2].name}),
        (False, True, {"brand-new"}),
        (True, True, set()),
    ]
    for allow_new, allow_missing, failing in cases:
        allowed = run_gate(other, baseline, allow_new=allow_new, allow_missing=allow_missing)
        assert {check.slice for check in allowed.failed} == failing
        assert allowed.ok == (not failing)
    # What was not compared is not counted among what did not drop.
    assert f"gate passed: {len(allowed.compared)} checks" in allowed.summary
    assert "3 new, not compared; 3 missing, not compared" in allowed.summary


def test_the_baseline_reviews_well(good: Path, baseline: Path, tmp_path: Path) -> None:
    text = baseline.read_text()
    document = yaml.safe_load(text)
    results = pd.read_csv(good / "results.csv")
    mmlu = results[(results["slice"] == "e2b") & (results["task"] == "mmlu")]["value"].iloc[0]
    assert document["scores"]["e2b"]["mmlu"] == pytest.approx(100 * mmlu, abs=0.005)
    assert text.splitlines()[0].startswith("#") and "--update" in text
    assert max(map(len, text.splitlines())) <= 120
    # Updating with the same sweep changes nothing; a few changed answers change a few lines.
    again = tmp_path / "again.yaml"
    run_gate(good, again, update=True)
    assert again.read_text() == text
    folder = write_sweep(tmp_path / "one", slices=SOME, scale=0.1)
    path = folder / "samples" / "e2b" / "boolq.parquet"
    table = pd.read_parquet(path)
    acc: Any = table.at[5, "acc"]
    table.at[5, "acc"] = 1 - acc
    table.to_parquet(path)
    results = pd.read_parquet(folder / "results.parquet")
    here = (results["slice"] == "e2b") & (results["task"] == "boolq")
    results.loc[here, "value"] = table["acc"].mean()
    write_results(folder, results)
    run_gate(folder, again, update=True)
    changed = set(again.read_text().splitlines()) ^ set(text.splitlines())
    assert len(changed) == 4  # the score's line and one line of answers, before and after


def test_other_conditions_are_no_comparison(good: Path, baseline: Path, tmp_path: Path) -> None:
    text = baseline.read_text()
    for wanted, old, new in (
        (
            "num_fewshot is 5 in the baseline and 10 in the sweep",
            "num_fewshot: 10",
            "num_fewshot: 5",
        ),
        (
            "metric is acc in the baseline and acc_norm in the sweep",
            "metric: acc_norm",
            "metric: acc",
        ),
        ("slice e2b: its widths", yaml.safe_load(text)["slices"]["e2b"], "f" * 64),
        (
            "were scored on different items",
            yaml.safe_load(text)["tasks"]["mmlu"]["items"],
            "f" * 64,
        ),
    ):
        edited = tmp_path / "edited.yaml"
        edited.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=wanted):
            run_gate(good, edited)
    fewer = write_sweep(tmp_path / "fewer", slices=SOME, scale=0.05)
    with pytest.raises(InputError, match=r"n is 1004 in the baseline and 502 in.*update=True"):
        run_gate(fewer, baseline)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, "no baseline yet; make one with `update=True`"),
        ("{", "not valid YAML"),
        ("[]", "baseline.yaml: "),
        ("format: 2", "is missing"),
        ("format: 1", "is an earlier version's baseline"),
        ("format: 3", "is a later version's baseline (format 3)"),
        ("!!python/object/apply:os.system [true]", "not valid YAML"),
    ],
)
def test_a_broken_baseline_is_one_clear_line(
    good: Path, tmp_path: Path, text: str | None, wanted: str
) -> None:
    path = tmp_path / "baseline.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        run_gate(good, path)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("lines", ["['zz']", "['ff']", "[]", "['ff ff']"])
def test_broken_outcomes_are_named(good: Path, baseline: Path, tmp_path: Path, lines: str) -> None:
    document = yaml.safe_load(baseline.read_text())
    document["outcomes"]["e2b"]["boolq"] = yaml.safe_load(lines)
    path = tmp_path / "baseline.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError, match="outcomes of e2b on boolq"):
        run_gate(good, path)


def test_a_negative_or_missing_allowance_is_refused(good: Path, baseline: Path) -> None:
    for wrong in (-1.0, float("nan"), float("inf"), 100.0, 1e300):
        with pytest.raises(InputError, match="max_drop"):
            run_gate(good, baseline, max_drop=wrong)


@pytest.mark.parametrize("where", ["nowhere/baseline.yaml", "."])
def test_a_target_that_cannot_be_written_is_bad_input(
    good: Path, baseline: Path, tmp_path: Path, where: str
) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        run_gate(good, tmp_path / where, update=True)
    with pytest.raises(InputError, match="cannot be written"):
        run_gate(good, baseline, junit=tmp_path / where, markdown=tmp_path / "summary.md")
    assert not list(tmp_path.iterdir())


def test_a_drop_that_noise_could_explain_passes_and_is_named(
    good: Path, baseline: Path, tmp_path: Path
) -> None:
    noisy = write_sweep(tmp_path / "noisy", slices=SOME, scale=0.1, noise=0.01)
    result = run_gate(noisy, baseline)
    largest = max(check.drop or 0 for check in result.checks)
    assert largest > 0
    strict = run_gate(noisy, baseline, max_drop=50 * largest)  # half of it, in points
    undecided = [check for check in strict.checks if check.status == "undecided"]
    assert strict.ok and undecided
    for check in undecided:
        assert check.drop is not None and check.low is not None
        assert check.low <= largest / 2 < check.drop
    assert f"{len(undecided)} lower, within noise" in strict.summary
    assert to_markdown(strict).count("lower, within noise |") == len(undecided)


def test_nothing_is_written_when_the_input_is_bad(baseline: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"slices\.json: not found"):
        run_gate(tmp_path, baseline, markdown=tmp_path / "s.md", junit=tmp_path / "j.xml")
    assert not list(tmp_path.iterdir())


def test_graded_outcomes_are_compared_too(tmp_path: Path) -> None:
    """A metric between 0 and 1 per item (an F1, say) is stored as numbers."""
    folder = write_sweep(tmp_path / "graded", slices=SOME, scale=0.02)
    results = pd.read_parquet(folder / "results.parquet")
    rng = np.random.default_rng(0)
    for path in (folder / "samples").glob("*/boolq.parquet"):
        table = pd.read_parquet(path)
        table["acc"] = rng.integers(0, 5, len(table)) / 4
        table.to_parquet(path)
        here = (results["slice"] == path.parent.name) & (results["task"] == "boolq")
        results.loc[here, "value"] = table["acc"].mean()
    write_results(folder, results)
    path = tmp_path / "baseline.yaml"
    run_gate(folder, path, update=True)
    assert yaml.safe_load(path.read_text())["tasks"]["boolq"]["encoding"] == "numbers"
    result = run_gate(folder, path)
    assert result.ok and {check.drop for check in result.checks} == {0.0}


def test_summary_and_junit_say_what_the_result_says(baseline: Path, tmp_path: Path) -> None:
    damaged = write_sweep(tmp_path / "damaged", slices=SOME, scale=0.1, drop={"e2b": 1.5})
    markdown, junit = tmp_path / "summary.md", tmp_path / "junit.xml"
    result = run_gate(damaged, baseline, markdown=markdown, junit=junit)
    text = markdown.read_text()
    assert "Gate failed" in text
    rows = [line for line in text.splitlines() if line.startswith("| e")]
    assert len(rows) == len(result.checks)
    assert sum("❌" in row for row in rows) == len(result.failed)
    assert text.index("| e2b | MMLU") < text.index("<details>")
    root = ET.parse(junit).getroot()
    assert len(root.findall(".//testcase")) == len(result.checks)
    assert len(root.findall(".//failure")) == len(result.failed)
    assert sum(int(suite.get("failures", 0)) for suite in root) == len(result.failed)


def test_the_summary_can_be_printed(good: Path, baseline: Path, tmp_path: Path) -> None:
    run_gate(good, baseline, markdown=tmp_path / "summary.md")
    printed = run_here("gate", good, "--baseline", baseline, "--markdown", "-").out
    written = (tmp_path / "summary.md").read_text()
    assert written.startswith(printed.rstrip()) and not Path("-").exists()


def test_names_cannot_break_out_of_the_summary(tmp_path: Path) -> None:
    wicked = Made("<img src=x onerror=alert(1)>|`*_[a](b)\x0b", (1,))
    folder = write_sweep(tmp_path / "wicked", slices=(SOME[0], wicked), scale=0.01)
    path = tmp_path / "baseline.yaml"
    run_gate(folder, path, update=True)
    markdown, junit = tmp_path / "summary.md", tmp_path / "junit.xml"
    result = run_gate(folder, path, markdown=markdown, junit=junit)
    assert result.ok
    text = markdown.read_text()
    assert "<img" not in text and "&lt;img" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") == 8
    names = {case.get("name") for case in ET.parse(junit).getroot().iter("testcase")}
    assert any(name and "<img src=x" in name for name in names)


def test_encoding_is_lossless() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 7, 8, 255, 256, 257, 1000):
        row = rng.integers(0, 2, n).astype(float)
        task = TaskBaseline(
            metric="acc",
            num_fewshot=0,
            version="1.0",
            n=n,
            items="f" * 64,
            prompt_hash="f" * 64,
            mean_over="items",
            encoding="bits",
        )
        np.testing.assert_array_equal(decode(encode(row, "bits"), task, "x"), row)
        graded = rng.random(n)
        numbers = task.model_copy(update={"encoding": "numbers"})
        np.testing.assert_array_equal(decode(encode(graded, "numbers"), numbers, "x"), graded)


# --- the real thing: sweeps of the embedded parent ---


def damage_upper_half(model: Path) -> None:
    """Turn the outputs of all FFN neurons past the half around: slices of half width stay whole."""
    weights = load_file(model / "model.safetensors")
    for name, down in weights.items():
        if name.endswith("mlp.down_proj.weight"):
            half = down.shape[1] // 2
            down[:, half:] *= -8
            weights[name] = down
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.slow
def test_a_damaged_parent_fails_for_the_slices_it_damages_and_another_dtype_is_refused(
    cli: Callable[..., CommandResult], tmp_path: Path
) -> None:
    def sweep(out: str, **changes: str) -> None:
        recipe = {
            "parent": str(tmp_path / "model"),
            "slices": ["e4b", "e2b"],
            "tasks": ["tiny_boolq"],
            "dtype": "float32",
            "limit": 100,
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | changes))
        done = cli("sweep", "recipe.yaml", "--out", out)
        assert done.code == 0, done.err

    shutil.copytree(tiny.model_dir(), tmp_path / "model")
    sweep("good")
    assert cli("gate", "good", "--baseline", "baseline.yaml", "--update").code == 0

    passed = cli("gate", "good", "--baseline", "baseline.yaml")
    assert passed.code == 0 and passed.out.startswith("gate passed"), passed
    sweep("rounded", dtype="bfloat16")
    refused = cli("gate", "rounded", "--baseline", "baseline.yaml")
    assert refused.code == 2, refused
    assert "dtype is float32 in the baseline and bfloat16 in the sweep" in refused.err

    damage_upper_half(tmp_path / "model")
    sweep("damaged")
    refused = cli("gate", "damaged", "--baseline", "baseline.yaml")
    assert refused.code == 2 and "fingerprint is" in refused.err, refused
    assert "`--allow-parent" not in refused.err and "--allow-parent" in refused.err
    files = ("--allow-parent", "--markdown", "gate.md", "--junit", "gate.xml")
    failed = cli("gate", "damaged", "--baseline", "baseline.yaml", *files)
    assert failed.code == 1 and failed.out.startswith("gate failed: "), failed
    suite = ET.parse(tmp_path / "gate.xml").getroot()
    broken = {
        case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None
    }
    assert broken and all("e4b" in str(name) for name in broken), broken
    summary = (tmp_path / "gate.md").read_text()
    assert "parent's weights are not those of the baseline" in summary

"""Agreement with the parent: what transformers' own logits say, and a column of any sweep."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matformer_lab.common.errors import InputError
from matformer_lab.sweep.recipe import parse_recipe
from tests.support.command import run_here


@pytest.fixture
def text(tmp_path: Path) -> Path:
    from matformer_lab import tiny

    path = tmp_path / "text.txt"
    path.write_text(tiny.text_file().read_text()[:4000])
    return path


def asked(scorable: Path, text: Path, tokens: int = 300, **keys: Any) -> dict[str, Any]:
    return {
        "parent": str(scorable),
        "slices": ["full", "1/2", "1/4"],
        "tasks": ["tiny_boolq", "tiny_hellaswag"],
        "limit": 4,
        "dtype": "float32",
        "device": "cpu",
        "agreement": {"text": str(text), "tokens": tokens},
        **keys,
    }


def test_it_is_what_transformers_logits_say(scorable: Path, text: Path) -> None:
    import torch

    import matformer_lab as ml
    from matformer_lab.scoring.agreement import agreement
    from matformer_lab.scoring.batches.packing import Request

    elastic = ml.ElasticParent.load(scorable)
    tokenizer = ml.load_tokenizer(elastic.parent)
    ids = tokenizer(text.read_text(), add_special_tokens=False).input_ids[:120]
    windows = [ids[at : at + 40] for at in range(0, 120, 40)]
    models = {name: elastic.live(name) for name in ("full", "1/2", "1/4")}
    requests = [Request.of([tokenizer.bos_token_id], window, 41) for window in windows]
    found = agreement(models, elastic.live("full"), requests)
    inputs = torch.tensor([[tokenizer.bos_token_id, *window[:-1]] for window in windows])
    with torch.inference_mode():
        p = models["full"](inputs).logits.double().log_softmax(-1)
        for name, model in models.items():
            q = model(inputs).logits.double().log_softmax(-1)
            kl = (p.exp() * (p - q)).sum(-1).mean(-1).numpy()
            top1 = (p.argmax(-1) == q.argmax(-1)).double().mean(-1).numpy()
            np.testing.assert_allclose(found[name].kl, kl, atol=1e-5)
            np.testing.assert_allclose(found[name].top1, top1, atol=1e-9)
    assert found["1/4"].kl.mean() > found["1/2"].kl.mean() > 0


def test_a_device_that_runs_out_of_memory_gets_smaller_batches(
    scorable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    import matformer_lab as ml
    from matformer_lab.scoring import agreement as module
    from matformer_lab.scoring.batches.packing import Request
    from matformer_lab.scoring.batches.token_budget import TokenBudget
    from matformer_lab.scoring.journal import Journal

    elastic = ml.ElasticParent.load(scorable)
    models = {name: elastic.live(name) for name in ("1/2", "1/4")}
    requests = [Request.of([2], [5 + n] * (90 + n), 200) for n in range(12)]
    small = TokenBudget(256, 256)
    expected = module.agreement(models, elastic.live("full"), requests, budget=small)
    compare, calls = module._compared, 0

    def short(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:  # the second slice of the second batch: the first one's are known already
            raise torch.OutOfMemoryError
        return compare(*args)

    monkeypatch.setattr(module, "_compared", short)
    journal, done = Journal(), []
    found = module.agreement(
        models,
        elastic.live("full"),
        requests,
        budget=TokenBudget(512, 512),
        progress=lambda *call: done.append(call),
        journal=journal,
    )
    assert journal.budgets == [TokenBudget(512, 512), small]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].kl, values.kl, atol=1e-6)
        np.testing.assert_allclose(found[name].top1, values.top1)
    assert done == sorted(done) and done[-1] == (12, 12)

    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(module, "_compared", never)
    with pytest.raises(torch.OutOfMemoryError):
        module.agreement(models, elastic.live("full"), requests, budget=TokenBudget(512, 512))


def test_a_sweep_shows_it_beside_its_tasks_and_not_in_their_average(
    scorable: Path, text: Path, tmp_path: Path
) -> None:
    import matformer_lab as ml

    out = ml.run_sweep(parse_recipe(asked(scorable, text)), tmp_path / "out")
    rows = ml.load_results(out)
    own = {
        (row["slice"], row["metric"]): float(row["value"])
        for row in rows[rows["task"] == "agreement"].to_dict("records")
    }
    assert own["uniform-full", "top1"] == 1.0
    assert own["uniform-full", "kl"] == pytest.approx(0, abs=1e-6)
    assert own["uniform-1-4", "kl"] > own["uniform-1-2", "kl"] > 0
    sweep = ml.read_sweep(out)
    panels = {panel.name: panel for panel in sweep.panels}
    assert list(panels) == ["tiny_boolq", "tiny_hellaswag", "agreement", "average"]
    tasks = (panels["tiny_boolq"].values + panels["tiny_hellaswag"].values) / 2
    assert panels["average"].values == pytest.approx(tasks)
    assert sweep.title("average") == "Average of 2 tasks"
    assert "Agreement" in (out / "report.html").read_text()
    again = ml.run_sweep(out / "recipe.yaml", tmp_path / "again", report=False)
    assert ml.load_results(again)["value"].tolist() == rows["value"].tolist()


@pytest.mark.parametrize(
    ("content", "tokens", "expected"),
    [
        (b"Brewing: paint", 300, "the text is too short: it has"),
        ("Käse\n".encode("utf-16"), 300, "is not UTF-8 (byte 0); save the text in UTF-8"),
        (None, 300, "no such file"),
    ],
)
def test_a_text_that_will_not_do(
    scorable: Path, tmp_path: Path, content: bytes | None, tokens: int, expected: str
) -> None:
    import yaml

    text = tmp_path / "bad.txt"
    if content is not None:
        text.write_bytes(content)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(asked(scorable, text, tokens)))
    done = run_here("sweep", file, "--out", tmp_path / "out")
    assert done.code == 2 and expected in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    search = asked(scorable, text)
    del search["agreement"], search["limit"]
    search["search"] = {
        "budgets": [{"max_params": 40000}],
        "calibration": {"text": str(text), "tokens": tokens, "items": 5},
    }
    file.write_text(yaml.safe_dump(search))
    done = run_here("search", file, "--out", tmp_path / "out")
    assert done.code == 2 and done.err.count("\n") == 1
    assert expected in done.err or "is below the smallest slice" in done.err
    assert not (tmp_path / "out").exists()


def test_agreement_is_no_task(scorable: Path, text: Path) -> None:
    with pytest.raises(InputError, match="agreement is a key beside tasks"):
        parse_recipe(asked(scorable, text, tasks=["agreement"]))

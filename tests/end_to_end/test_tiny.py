"""The shipped parent is what its card says: a stock checkpoint, three full tasks, and a frontier
that nesting makes.

The slices here are cut by this file's own few lines, so that it also stands against the package's
slicing.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, Gemma3nForCausalLM, Gemma3nTextConfig

from matformer_lab import tiny

Weights = dict[str, Tensor]
WIDTHS = {"uniform-1-8": 1, "uniform-1-4": 2, "uniform-1-2": 4, "e4b": 8}
ITEMS = {"tiny_boolq": 800, "tiny_mmlu": 800}
# Far enough out that sound weights never trip on the sampling of items, near enough that broken
# nesting always does
TOLERANCE = 4.0


def data(task: str, split: str, part: str = "data") -> pd.DataFrame:
    folder = tiny.datasets_dir() / "matformer_lab" / task / part
    return pd.read_parquet(folder / f"{split}-00000-of-00001.parquet")


def subjects() -> list[str]:
    folder = tiny.datasets_dir() / "matformer_lab" / "tiny_mmlu"
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


@cache
def parent() -> Weights:
    flat = load_file(tiny.model_dir() / "model.safetensors")
    return {name: tensor.float() for name, tensor in flat.items()}


def narrow(weights: Weights, eighths: int) -> Gemma3nForCausalLM:
    """The uniform slice of this width: leading rows of gate and up, leading columns of down."""
    config = Gemma3nTextConfig.from_pretrained(tiny.model_dir())
    width = len(weights["model.layers.0.mlp.gate_proj.weight"]) * eighths // 8
    config.intermediate_size = [width] * config.num_hidden_layers

    def leading(name: str, tensor: Tensor) -> Tensor:
        if "mlp.gate_proj" in name or "mlp.up_proj" in name:
            return tensor[:width]
        return tensor[:, :width] if "mlp.down_proj" in name else tensor

    child = {name: leading(name, tensor) for name, tensor in weights.items()}
    model = Gemma3nForCausalLM(config)
    model.eval()  # type: ignore[no-untyped-call]
    missing, _ = model.load_state_dict(child, strict=False)
    assert missing == ["lm_head.weight"]
    return model


@cache
def prompts(task: str) -> list[tuple[str, list[str], int]]:
    """Prompt, answers and index of the right one, in the wording of the YAML files."""
    if task == "tiny_boolq":
        return [
            (
                f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:",
                ["no", "yes"],
                row["label"],
            )
            for row in data(task, "validation").head(ITEMS[task]).to_dict("records")
        ]
    out = []
    for subject in subjects():
        head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        for row in data("tiny_mmlu", "dev", subject).to_dict("records"):
            head += f"{row['question']} {row['choices'][row['answer']]}\n\n"
        frame = data("tiny_mmlu", "test", subject).head(ITEMS[task] // len(subjects()))
        out += [
            (head + row["question"], list(row["choices"]), row["answer"])
            for row in frame.to_dict("records")
        ]
    return out


@torch.no_grad()
def accuracy(model: Gemma3nForCausalLM, task: str) -> Tensor:
    """0 or 1 for each item, as floats."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.model_dir(), padding_side="right")
    right = []
    for start in range(0, len(prompts(task)), 50):
        texts, choices, gold = zip(*prompts(task)[start : start + 50], strict=True)
        # Causal attention: padding on the right changes nothing to its left
        tokens = tokenizer(list(texts), return_tensors="pt", padding=True)
        last = tokens.attention_mask.sum(1) - 1
        logits = model(input_ids=tokens.input_ids).logits[torch.arange(len(texts)), last]
        # Every answer is one token
        ids = torch.tensor(
            [[tokenizer.encode(f" {c}", add_special_tokens=False) for c in row] for row in choices]
        )
        guess = logits.gather(1, ids[:, :, 0]).argmax(-1)
        right.append((guess == torch.tensor(gold)).float())
    return torch.cat(right)


def frontier_problems(weights: Weights) -> list[str]:
    """What is wrong with the frontier of these weights: order of the widths, or distance from the
    card's figures.
    """
    recorded = tiny.info()["scores"]
    problems = []
    for task in ITEMS:
        scores = {name: accuracy(narrow(weights, e), task) for name, e in WIDTHS.items()}
        names = list(WIDTHS)
        for small, large in pairwise(names):
            gap = scores[large] - scores[small]
            if float(gap.mean()) <= -2 * float(gap.std()) / len(gap) ** 0.5:
                problems.append(f"{task}: {large} is worse than {small}")
        ends = scores["e4b"] - scores["uniform-1-8"]
        if float(ends.mean()) < 3 * float(ends.std()) / len(ends) ** 0.5:
            problems.append(f"{task}: full is no better than 1/8")
        for name, score in scores.items():
            expected = recorded[name][task]["value"]
            stderr = max((expected * (1 - expected) / len(score)) ** 0.5, 0.005)
            if abs(float(score.mean()) - expected) > TOLERANCE * stderr:
                problems.append(f"{task}: {name} scores {float(score.mean()):.3f}, card {expected}")
    return problems


def test_loads_strictly_with_stock_transformers() -> None:
    loaded: Any = Gemma3nForCausalLM.from_pretrained(
        tiny.model_dir(), dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert model.config.num_hidden_layers == 35
    assert model.config.num_kv_shared_layers == 15
    full = [i for i, kind in enumerate(model.config.layer_types) if kind == "full_attention"]
    assert full == list(range(4, 35, 5))


def test_generates() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.model_dir())
    model: Any = Gemma3nForCausalLM.from_pretrained(tiny.model_dir(), dtype=torch.float32)
    prompt = tokenizer("Brewing: amber stew makes", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert out.shape[1] == prompt.input_ids.shape[1] + 8


def test_checkpoint_is_laid_out_as_published_ones_are() -> None:
    config = json.loads((tiny.model_dir() / "config.json").read_text())
    names = set(load_file(tiny.model_dir() / "model.safetensors"))
    assert "lm_head.weight" not in names
    for layer in range(35):
        assert f"model.layers.{layer}.self_attn.k_proj.weight" in names
        assert f"model.layers.{layer}.self_attn.v_proj.weight" in names
    for key in ("layer_types", "activation_sparsity_pattern", "intermediate_size"):
        assert len(config[key]) == 35
    assert all(type(value) is float for value in config["activation_sparsity_pattern"])
    assert {"rope_theta", "rope_local_base_freq", "sliding_window", "torch_dtype"} <= set(config)
    assert config["intermediate_size"][0] % 8 == 0


def test_package_data_is_small() -> None:
    folder = tiny.model_dir().parent
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 8_000_000


def test_tokenizer_round_trips_any_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.model_dir())
    for text in (
        "Brewing: amber stew\nQuestion: is it sweet?\nAnswer:",
        "Naïve ☕ text,\n\n  tabs\tand 123.",
    ):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.bos_token_id not in ids[1:]
        assert tokenizer.decode(ids[1:]) == text


def test_tasks_are_full_and_sound() -> None:
    assert len(data("tiny_hellaswag", "validation")) >= 1000
    assert len(data("tiny_boolq", "validation")) >= 1000
    questions = pd.concat([data("tiny_mmlu", "test", subject) for subject in subjects()])
    assert len(questions) >= 1000
    assert len(subjects()) >= 3
    assert questions.question.is_unique
    assert questions.choices.map(lambda c: len(set(c))).eq(4).all()
    assert set(data("tiny_boolq", "validation").label) == {0, 1}
    assert data("tiny_hellaswag", "validation").endings.map(len).eq(4).all()


def test_lm_eval_finds_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # Dataset ids are found as folders from here
    monkeypatch.chdir(tiny.datasets_dir())
    manager = TaskManager(include_path=str(tiny.tasks_dir()), include_defaults=False)
    names = ["tiny_hellaswag", "tiny_boolq", "tiny_mmlu"]
    assert set(names) <= set(manager.all_tasks)
    assert manager.load(names)["tasks"]


@pytest.mark.slow  # the weights that ship do not change
def test_frontier_is_in_order() -> None:
    assert frontier_problems(parent()) == []


def shuffle_ffn(weights: Weights) -> Weights:
    """The same function at full width, with the neurons of every FFN in another order: nesting is
    gone.
    """
    generator = torch.Generator().manual_seed(0)
    out = dict(weights)
    layer = 0
    while f"model.layers.{layer}.mlp.gate_proj.weight" in weights:
        name = f"model.layers.{layer}.mlp."
        order = torch.randperm(len(weights[name + "gate_proj.weight"]), generator=generator)
        for matrix in ("gate_proj", "up_proj"):
            out[f"{name}{matrix}.weight"] = weights[f"{name}{matrix}.weight"][order]
        out[f"{name}down_proj.weight"] = weights[f"{name}down_proj.weight"][:, order]
        layer += 1
    return out


@pytest.mark.slow
def test_frontier_check_notices_broken_nesting() -> None:
    problems = frontier_problems(shuffle_ffn(parent()))
    assert any("uniform-1-8 scores" in problem for problem in problems)
    # Only the order of the neurons changed, so the full model still is what it was
    assert not any("e4b scores" in problem for problem in problems)

"""32K tokens of context through a slice: sliding windows and shared K/V as in the parent."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3nForCausalLM

from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from tests.support.by_hand import cut_by_hand
from tests.support.pico import PICO, write_parent

CONTEXT = 32_768
CHUNK = 2_048
"""Tokens a forward; the cache holds what came before."""


def last_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    return through_cache(Gemma3nForCausalLM.from_pretrained(folder, dtype=torch.float32), ids)


def through_cache(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the last chunk, after all before it went through the cache."""
    model.train(False)
    cache = None
    out: Any = None
    with torch.no_grad():
        for start in range(0, ids.shape[1], CHUNK):
            out = model(
                ids[:, start : start + CHUNK],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=0 if start + CHUNK >= ids.shape[1] else 1,
            )
            cache = out.past_key_values
    logits: torch.Tensor = out.logits
    return logits


@pytest.mark.slow
def test_32k_tokens_through_slices_of_a_pico_parent(tmp_path: Path) -> None:
    config = {**PICO, "sliding_window": 512, "max_position_embeddings": CONTEXT}
    parent = open_parent(
        str(write_parent(tmp_path / "parent", config=config, dtype="float32", scale=0.1))
    )
    ids = torch.randint(1, 96, (1, CONTEXT), generator=torch.Generator().manual_seed(0))
    expected = last_logits(parent.local, ids)
    assert expected.std() > 0.03

    (full, skipping) = resolve_slices(
        [
            {"name": "all-of-it", "widths": "full"},
            {"name": "skipping", "widths": "full", "skip": [1, 6]},
        ],
        parent,
    )
    same = write_checkpoint(make_plan(parent, full), tmp_path / "full")
    assert torch.equal(last_logits(same, ids), expected)

    child = write_checkpoint(make_plan(parent, skipping), tmp_path / "skipping")
    short = last_logits(child, ids[:, -CHUNK:])
    long = last_logits(child, ids)
    assert not torch.allclose(short, long, atol=1e-4)  # the far context counts
    whole = Gemma3nForCausalLM.from_pretrained(parent.local, dtype=torch.float32)
    by_hand = cut_by_hand(whole, skipping.skipped, skipping.widths)
    assert torch.allclose(long, through_cache(by_hand, ids), atol=1e-4)

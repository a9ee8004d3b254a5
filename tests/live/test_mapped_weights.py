"""A file that cannot be read while it is used is an error that names it, not a signal."""

import os
import sys
from pathlib import Path

import pytest
import torch

from matformer_lab.common.errors import InputError
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.live.mapped_weights import check_readable, check_rows_readable, spans_of
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.journal import FileJournal
from matformer_lab.scoring.slice_scoring import score_slices
from tests.support.pico import write_parent


def _says_why() -> bool:
    release = os.uname().release.split(".") if sys.platform == "linux" else ["0", "0"]
    return (int(release[0]), int(release[1].split("-")[0])) >= (5, 14)


pytestmark = pytest.mark.skipif(not _says_why(), reason="needs Linux 5.14")


def mapped(path: Path, rows: int, columns: int) -> torch.Tensor:
    path.write_bytes(bytes(rows * columns * 2))
    flat = torch.from_file(str(path), shared=False, size=rows * columns, dtype=torch.bfloat16)
    return flat.view(rows, columns)


def test_a_module_whose_file_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "with a space.bin"
    linear = torch.nn.Linear(1024, 64, bias=False)
    linear.weight = torch.nn.Parameter(mapped(path, 64, 1024), requires_grad=False)
    check_readable(linear)
    os.truncate(path, 50_000)
    with pytest.raises(InputError) as failed:
        check_readable(linear)
    assert str(failed.value) == (
        f"{path}: cannot be read (the file was cut short while it was used); what was scored is "
        "kept: run again to continue"
    )


def test_rows_of_a_table_whose_file_was_cut(tmp_path: Path) -> None:
    table = mapped(tmp_path / "table.bin", 64, 4096)
    os.truncate(tmp_path / "table.bin", 10 * 8192)
    check_rows_readable(table, torch.tensor([[0, 9], [3, 3]]))
    with pytest.raises(InputError, match="cut short"):
        check_rows_readable(table, torch.tensor([[0, 11]]))


def test_neighbours_are_one_span() -> None:
    weight = torch.zeros(4096, 64)
    rows = [weight[:1000], weight[1000:2000], weight[:, :7]]
    assert len(spans_of(rows)) == 1
    assert spans_of([torch.zeros(0, 3)]) == []
    assert spans_of([torch.zeros(3, device="meta")]) == []


def test_a_pass_whose_parent_is_cut_keeps_what_it_scored(tmp_path: Path) -> None:
    parent = write_parent(tmp_path / "parent")
    weights = parent / "model.safetensors"
    model = ElasticParent.load(str(parent), dtype="bfloat16").live("1/2")
    requests = [Request((n + 1,) * 20, (n + 1, n + 2)) for n in range(6)]
    cut = weights.stat().st_size // 2
    seen = []

    def progress(done: float, count: int) -> None:
        seen.append(done)
        if done > count / 2 and weights.stat().st_size > cut:
            os.truncate(weights, cut)

    journal = FileJournal(tmp_path / "pass.journal", ["half"], {})
    budget = TokenBudget(batch_tokens=32, row_tokens=32)
    with pytest.raises(InputError, match=f"^{weights}: cannot be read"):
        score_slices({"half": model}, requests, budget=budget, progress=progress, journal=journal)
    assert max(seen) < len(requests)
    assert len(FileJournal(tmp_path / "pass.journal", ["half"], {}).records()) > 2

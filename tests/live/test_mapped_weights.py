"""A file that cannot be read while it is used is an error that names it, not a signal."""

import ctypes
import mmap
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
        f"{path}: cannot be read (the file was cut short while it was used)"
    )


def test_a_file_whose_name_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.bin")
    path.write_bytes(bytes(4 * mmap.PAGESIZE))
    with path.open("rb") as file:
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    table = torch.frombuffer(held, dtype=torch.uint8).view(4, -1)
    os.truncate(path, mmap.PAGESIZE)
    with pytest.raises(InputError) as failed:
        check_rows_readable(table, torch.tensor([2]))
    assert str(failed.value).startswith(f"{path}: cannot be read (the file was cut short")


def test_of_files_side_by_side_the_one_that_was_cut_is_named(tmp_path: Path) -> None:
    """Neighbours in memory are asked for at once, also where they are two files."""
    size = 16 * mmap.PAGESIZE
    room = mmap.mmap(-1, 2 * size)
    start = ctypes.addressof(ctypes.c_char.from_buffer(room))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    for number, name in enumerate(("one.bin", "two.bin")):
        (tmp_path / name).write_bytes(bytes(size))
        with (tmp_path / name).open("rb") as file:
            place = ctypes.c_void_p(start + number * size)
            options = mmap.MAP_SHARED | 0x10  # MAP_FIXED
            descriptor, begin = file.fileno(), ctypes.c_long(0)
            libc.mmap(place, ctypes.c_size_t(size), mmap.PROT_READ, options, descriptor, begin)
    table = torch.frombuffer(room, dtype=torch.uint8).view(2, size)
    check_rows_readable(table, torch.tensor([0, 1]))
    os.truncate(tmp_path / "two.bin", mmap.PAGESIZE)
    with pytest.raises(InputError, match=rf"^{tmp_path}/two\.bin: cannot be read .*cut short"):
        check_rows_readable(table, torch.tensor([0, 1]))


def test_generation_asks_for_every_weight_once_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matformer_lab.generation import decoding, forward

    model = ElasticParent.load(str(write_parent(tmp_path / "parent"))).live("full")
    asked: list[torch.nn.Module] = []
    monkeypatch.setattr(forward, "check_readable", lambda *modules: asked.extend(modules))
    decoding.generate(model, [[3, 4]], max_new_tokens=3, is_done=lambda _: False)
    text = model.model
    once = {text.per_layer_model_projection, text.per_layer_projection_norm, *text.layers}
    once |= {text.altup_projections, text.altup_unembed_projections, text.norm, model.lm_head}
    assert len(asked) == len(once) and set(asked) == once
    # Nothing else has weights, but for the two tables, whose rows are asked for.
    covered = {id(p) for module in once for p in module.parameters()}
    tables = {id(text.embed_tokens.weight), id(text.embed_tokens_per_layer.table)}
    assert {id(p) for p in model.parameters()} <= covered | tables


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
    with pytest.raises(InputError, match=f"^{weights}: cannot be read .*is kept: run again"):
        score_slices({"half": model}, requests, budget=budget, progress=progress, journal=journal)
    assert max(seen) < len(requests)
    assert len(FileJournal(tmp_path / "pass.journal", ["half"], {}).records()) > 2

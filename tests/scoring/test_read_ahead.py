"""Weights that do not fit into memory: read once a batch, and what a pass reads is known before."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from matformer_lab.live.elastic import ElasticParent
from matformer_lab.live.host_memory import _rooms, available_bytes
from matformer_lab.scoring.read_ahead import ReadAhead, bytes_read
from tests.support.pico import PICO, write_parent

CGROUP = Path("/sys/fs/cgroup/memory")
MB = 1 << 20


def test_weights_that_fit_are_read_once_and_others_by_every_batch() -> None:
    assert bytes_read(5, 100, 100) == 100
    assert bytes_read(5, 100, 99) == 500


def test_asking_for_any_layer_does_no_harm(pico: Path) -> None:
    """Small layers are not asked for; mapped, converted and anonymous large ones are."""
    layers = ElasticParent.load(str(pico)).live("1/2").model.layers
    with ReadAhead(layers[0]) as read_ahead:
        read_ahead.ask_for(layers[1])
    large = torch.nn.Linear(1024, 512, bias=False)
    narrow = torch.nn.Linear(512, 1024, bias=False)
    narrow.weight = torch.nn.Parameter(large.weight.detach().T)
    with ReadAhead(large) as read_ahead:
        for module in (large, narrow, torch.nn.LayerNorm(3)):
            read_ahead.ask_for(module)


@pytest.mark.parametrize(("limit", "expected"), [("1000", 1000 - 700 + 150), ("max", None)])
def test_a_cgroup_of_version_2_leaves_its_limit(
    tmp_path: Path, limit: str, expected: int | None
) -> None:
    inside = tmp_path / "mount" / "a" / "b"
    inside.mkdir(parents=True)
    (inside / "memory.max").write_text(f"{limit}\n")
    (inside / "memory.current").write_text("700\n")
    (inside / "memory.stat").write_text("anon 500\nactive_file 100\ninactive_file 50\n")
    (tmp_path / "cgroup").write_text("0::/a/b\n")
    rooms = list(_rooms(tmp_path / "cgroup", tmp_path / "mount"))
    assert rooms == ([] if expected is None else [expected])


def test_the_narrowest_of_nested_cgroups_counts_and_a_hosts_path_is_no_harm(tmp_path: Path) -> None:
    for folder, limit in ((tmp_path / "memory", 500), (tmp_path / "memory" / "a", 900)):
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "memory.limit_in_bytes").write_text(str(limit))
        (folder / "memory.usage_in_bytes").write_text("300")
        (folder / "memory.stat").write_text("total_active_file 0\ntotal_inactive_file 0\n")
    (tmp_path / "here").write_text("5:cpu:/x\n4:memory:/a\n")
    (tmp_path / "container").write_text("4:memory:/docker/of-the-host\n")
    assert min(_rooms(tmp_path / "here", tmp_path)) == 200
    assert list(_rooms(tmp_path / "container", tmp_path)) == [200]
    assert list(_rooms(tmp_path / "nowhere", tmp_path)) == []
    assert available_bytes() > 0


SCORE = """
import json, sys
from pathlib import Path
import torch
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.slice_scoring import score_slices
from matformer_lab.scoring.batches.token_budget import TokenBudget

def read():
    return int(Path("/proc/self/io").read_text().split("read_bytes: ")[1].split()[0])

model = ElasticParent.load(sys.argv[1], dtype="float32").live("full")
weights = [w for layer in model.model.layers for w in layer.state_dict().values()]
layers = sum(w.nbytes for w in weights if w.numel() > 2**18)
requests = [Request(tuple(range(1, 60)), (n + 1, n + 2)) for n in range(6)]
score_slices({"full": model}, requests[:1])
warm = read()
batches = int(sys.argv[2])
for n in range(batches):
    score_slices({"full": model}, requests[n : n + 1])
print(json.dumps({"layers": layers, "read": read() - warm}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access(CGROUP, os.W_OK), reason="makes a memory cgroup (version 1)")
@pytest.mark.parametrize("fits", [True, False])
def test_the_bytes_read_under_a_memory_limit(tmp_path: Path, fits: bool) -> None:
    config = {**PICO, "hidden_size": 1024, "intermediate_size": 16384, "laurel_rank": 8}
    parent = write_parent(tmp_path / "parent", config=config, scale=0.02)
    group = CGROUP / f"matformer_lab-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str((4000 if fits else 1100) * MB))
        script = f"import os; open({str(group / 'tasks')!r}, 'w').write(str(os.getpid()))\n{SCORE}"
        for file in parent.iterdir():  # not in the page cache, where other groups would pay for it
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        done = subprocess.run(
            [sys.executable, "-c", script, str(parent), "3"],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found = json.loads(done.stdout.splitlines()[-1])
    finally:
        group.rmdir()
    # The first batch, not counted here, has read everything once.
    expected = 0 if fits else bytes_read(3, found["layers"], 0)
    assert found["layers"] > 900 * MB
    assert abs(found["read"] - expected) <= 0.2 * expected + 20 * MB, found

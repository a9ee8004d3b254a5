"""Direct and ordinary writes give the same file, from any number of threads, on any filesystem."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from matformer_lab.checkpoint.disk.tensor_bytes import Scratch
from matformer_lab.common.files.direct_file import DirectFile
from matformer_lab.common.units import ALIGNMENT

PLACES = [None, *(["/dev/shm"] if os.access("/dev/shm", os.W_OK) else [])]


def aligned_copy(data: bytes) -> memoryview:
    buffer = Scratch(len(data)).buffer("read", len(data))
    buffer[:] = np.frombuffer(data, dtype=np.uint8)
    return buffer.data


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("direct", [True, False])
def test_pieces_land_where_they_belong(
    place: str | None, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not direct:
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    random = Random(5)
    content = random.randbytes(40 * ALIGNMENT + 1234)
    cuts = sorted(
        {0, len(content), *(random.randrange(40) * ALIGNMENT for _ in range(9)), 77, 4500}
    )
    pieces = list(pairwise(cuts))
    random.shuffle(pieces)
    with TemporaryDirectory(dir=place) as folder:
        path = Path(folder) / "file"
        with DirectFile(path, len(content)) as file, ThreadPoolExecutor(3) as pool:
            for job in [
                pool.submit(file.write, aligned_copy(content[start:stop]), start)
                for start, stop in pieces
            ]:
                job.result()
            file.sync()
        assert path.read_bytes() == content


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "file").symlink_to(tmp_path / "precious")
    if not hasattr(os, "O_NOFOLLOW"):
        pytest.skip("no O_NOFOLLOW here")
    with pytest.raises(OSError):
        DirectFile(tmp_path / "file", 10)
    assert (tmp_path / "precious").read_text() == "mine"

"""Writes a parent of random weights from a tensor inventory, e.g. Gemma 3n E4B's (15.7 GB).

    python benchmarks/full_size_parent.py TENSORS.json CONFIG.json DIR [--sparse]

TENSORS.json maps tensor names to shapes. Weights are 0.016 to 0.031, of either sign. `--sparse`
leaves holes for the data: takes no room, and is enough for whatever reads headers only.
"""

import argparse
import json
import math
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

MAX_SHARD_BYTES = 5 * 10**9
BLOCK_BYTES = 1 << 26
# Of a bf16 number; an exponent of its own would make every other weight huge or not a number.
SIGN_AND_FRACTION, EXPONENT = np.uint16(0x807F), np.uint16(0x3C80)


def shards(shapes: Mapping[str, Sequence[int]]) -> list[dict[str, Sequence[int]]]:
    found: list[dict[str, Sequence[int]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        nbytes = 2 * math.prod(shape)
        if found[-1] and size + nbytes > MAX_SHARD_BYTES:
            found.append({})
            size = 0
        found[-1][name] = shape
        size += nbytes
    return found


def write_shard(path: Path, shapes: Mapping[str, Sequence[int]], seed: int, sparse: bool) -> int:
    """One bf16 file, its header padded to 8 bytes as published ones are; its data's size."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        if sparse:
            file.truncate(8 + len(encoded) + end)
            return end
        for position in range(0, end, BLOCK_BYTES):
            bits = np.frombuffer(random.bytes(min(BLOCK_BYTES, end - position)), dtype="<u2")
            file.write((bits & SIGN_AND_FRACTION | EXPONENT).tobytes())
    return end


def write_parent(inventory: Path, config: Path, folder: Path, sparse: bool) -> None:
    folder.mkdir(parents=True)
    shutil.copyfile(config, folder / "config.json")
    groups = shards(json.loads(inventory.read_text()))
    weight_map: dict[str, str] = {}
    total = 0
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        total += write_shard(folder / file, group, number, sparse)
        weight_map |= dict.fromkeys(group, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    print(f"{folder}: {total:,} bytes in {len(groups)} files")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("inventory", "config", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--sparse", action="store_true")
    options = parser.parse_args()
    write_parent(options.inventory, options.config, options.folder, options.sparse)

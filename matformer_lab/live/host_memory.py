"""How much memory this process can still use: the machine's, within the limits of its cgroups."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc/self/cgroup")
_MOUNT: Final = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Bytes that new data can use, the page cache's share included, which gives way."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_rooms(_PROC, _MOUNT)])


def _rooms(proc: Path, mount: Path) -> Iterator[int]:
    """What the limits of this process's cgroup and of those around it leave.

    Args:
        proc: `/proc/self/cgroup`.
        mount: Where cgroups are mounted: version 2 as a whole, or version 1's controllers.
    """
    try:
        lines = proc.read_text().splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage, inactive = mount, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            root, limit, usage = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            inactive = "total_"
        else:
            continue
        inside = root / path.lstrip("/")
        # In a container the path may be the host's, and its own group is at the mount.
        for folder in (inside, *inside.parents):
            if not folder.is_relative_to(root):
                break
            room = _room(folder, limit, usage, inactive)
            if room is not None:
                yield room


def _room(folder: Path, limit: str, usage: str, prefix: str) -> int | None:
    """What one cgroup's limit leaves; None where it has none."""
    try:
        most = (folder / limit).read_text().strip()
        used = int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        if most == "max":
            return None
        cached = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        return max(0, int(most) - used + cached)
    except (OSError, ValueError):
        return None

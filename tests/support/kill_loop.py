"""Kills writers of a checkpoint and looks at what they leave. A script, so that forks start clean.

    python tests/kill_loop.py random PARENT SCRATCH KILLS SEED     SIGKILL at random moments
    python tests/kill_loop.py family PARENT SCRATCH KILLS SEED     the same, writing families
    python tests/kill_loop.py steps PARENT SCRATCH MAX_SHARD STRIDE    SIGKILL at every STRIDE-th
                                                                       file operation
    python tests/kill_loop.py added PARENT SCRATCH MAX_SHARD STRIDE    the same, adding to a family

After every kill the final name must hold nothing or the whole checkpoint, byte for byte; running
again must finish. Prints what happened as JSON; any violation is an AssertionError.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from matformer_lab.checkpoint.family import add_to_family, write_family
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan

SLICES = [["1/2"], ["3/4"], ["5/8"]]
FAMILIES = [["1/2", "1/4"], ["full", "1/2", "3/4"]]
FILE_OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): blake3(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def writer(parent: str, slices: list[str], max_shard_bytes: int) -> Callable[[Path], Path]:
    """Writes one slice, or several as a family."""
    opened = open_parent(parent)
    plans = [make_plan(opened, slice_) for slice_ in resolve_slices(slices, opened)]
    if len(plans) == 1:
        return lambda out: write_checkpoint(plans[0], out, max_shard_size=max_shard_bytes)
    return lambda out: write_family(plans, out, max_shard_size=max_shard_bytes)


def in_child(work: Callable[[], object]) -> int:
    """Fork; the child does `work` and leaves without ceremony."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"writer failed: {error!r}", file=sys.stderr)
        os._exit(9)


def killed(pid: int) -> bool:
    status = os.waitpid(pid, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the writer ended with {code}"
    return code != 0


def adder(parent: str, slice_: str, max_shard_bytes: int) -> Callable[[Path], Path]:
    """Adds one slice to the family that the folder given lies in."""
    opened = open_parent(parent)
    plans = [make_plan(opened, found) for found in resolve_slices([slice_], opened)]
    return lambda out: (
        out.parent / add_to_family(plans, out.parent, max_shard_size=max_shard_bytes)[0]
    )


def check_left_behind(out: Path, reference: dict[str, str], others: frozenset[str]) -> bool:
    """Whether `out` is complete; anything else but absent is a violation."""
    beside = {path.name for path in out.parent.iterdir()} - others
    assert beside <= {out.name, f".{out.name}.partial"}, beside
    if not out.exists():
        return False
    assert contents(out) == reference, "a half-written checkpoint has its final name"
    return True


def random_kills(
    jobs: list[list[str]], parent: str, scratch: Path, kills: int, seed: int
) -> Counter[str]:
    generator = random.Random(seed)
    seen: Counter[str] = Counter()
    while seen["kills"] < kills:
        write = writer(parent, generator.choice(jobs), generator.choice((40_000, 10**9)))
        begun = time.monotonic()
        reference = contents(write(scratch / "reference"))
        usual = time.monotonic() - begun
        shutil.rmtree(scratch / "reference")
        out = scratch / "runs" / "child"
        out.parent.mkdir()
        tries = 0
        while not out.exists():
            tries += 1
            pid = in_child(lambda: write(out))  # noqa: B023 - the child runs at once
            if tries <= 6:  # then let it finish, as a user would
                time.sleep(generator.uniform(0, usual))
                os.kill(pid, signal.SIGKILL)
            seen["kills"] += killed(pid)
            seen["resumed"] += tries > 1
            check_left_behind(out, reference, frozenset())
        seen["finished"] += 1
        shutil.rmtree(out.parent)
    return seen


def kill_at_step(step: int) -> None:
    """SIGKILL this process just before its `step`-th file operation from now."""
    left = step

    def watch(event: str, _: object) -> None:
        nonlocal left
        if event in FILE_OPERATIONS:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def kill_at_steps(
    write: Callable[[Path], Path], name: str, family: Path, scratch: Path, stride: int
) -> Counter[str]:
    """`write` makes the folder `name` beside what is in `family`."""
    seen: Counter[str] = Counter()
    others = frozenset(path.name for path in family.iterdir())
    out = scratch / "runs" / name
    shutil.copytree(family, out.parent)
    reference = contents(write(out))
    shutil.rmtree(out.parent)
    was_killed = True
    while was_killed:
        shutil.copytree(family, out.parent)

        def until_the_step() -> None:
            kill_at_step(seen["kills"] * stride)
            write(out)

        was_killed = killed(in_child(until_the_step))
        seen["kills"] += was_killed
        partial = out.with_name(f".{name}.partial")
        # A run killed after its work was done, while it tidied up, is finished by the next too.
        if not check_left_behind(out, reference, others) or (partial / "job.json").exists():
            assert not killed(in_child(lambda: write(out)))
            assert check_left_behind(out, reference, others)
            assert not partial.exists()
        assert was_killed or {p.name for p in out.parent.iterdir()} == {name, *others}
        shutil.rmtree(out.parent)
    return seen


if __name__ == "__main__":
    kind, parent_folder, scratch_folder, *arguments = sys.argv[1:]
    scratch, numbers = Path(scratch_folder), [int(argument) for argument in arguments]
    if kind in ("random", "family"):
        jobs = SLICES if kind == "random" else FAMILIES
        result = random_kills(jobs, parent_folder, scratch, *numbers)
    else:
        shard, stride = numbers
        (scratch / "before").mkdir()
        if kind == "steps":
            write, name = writer(parent_folder, ["1/2"], shard), "child"
        else:
            writer(parent_folder, ["1/4", "3/4"], shard)(scratch / "before")
            write, name = adder(parent_folder, "1/2", shard), "uniform-1-2"
        result = kill_at_steps(write, name, scratch / "before", scratch, stride)
    print(json.dumps(result))

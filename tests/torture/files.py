"""Mutated files in the way that users meet them: commands on parents, checkpoints and sweeps."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from matformer_lab.checkpoint.manifest import MANIFEST_FILE
from matformer_lab.checkpoint.verification.verify import verify_checkpoint
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.gate.run import run_gate
from matformer_lab.parent.opening import open_parent
from matformer_lab.results.read import read_sweep
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.sweep.jobs import prepare
from matformer_lab.sweep.recipe import load_recipe
from matformer_lab.sweep.run import run_sweep
from matformer_lab.sweep.scores.store import Store
from tests.end_to_end import test_fuzz as fuzz
from tests.end_to_end import test_writes as writes
from tests.support.command import run_here
from tests.support.file_operations import kill_at
from tests.support.mutations import changed, mutated, swapped
from tests.support.pico import write_parent
from tests.torture.kinds import REFUSED, RIGHT, Kind


class Workplace:
    """What is mutated: a parent, a checkpoint, a family, a sweep, a baseline, each right."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.parent = write_parent(scratch / "parent")
        opened = open_parent(self.parent)
        plan = make_plan(opened, resolve_slices(["1/2"], opened)[0])
        self.child = write_checkpoint(plan, scratch / "child", max_shard_size=60_000)
        self.scorable = _scorable(scratch / "scorable")
        self.executor = writes.Recorded()
        self.recipe = writes.sweep_recipe(self.scorable)
        self.out = run_sweep(self.recipe, scratch / "out", executor=self.executor, report=False)
        self.truth = _said(self.out)
        self.jobs = prepare(self.recipe, device="cpu").jobs
        store = Store(self.out / "store")
        self.stored = {job.key.digest: store.items(job.key) for job in self.jobs}
        self.baseline = scratch / "baseline.yaml"
        run_gate(self.out, self.baseline, update=True)
        self.checks = {(c.slice, c.task) for c in run_gate(self.out, self.baseline).checks}

    def copied(self, folder: Path) -> Path:
        """A fresh copy, under a name that is used again and again."""
        copy = self.scratch / "copies" / folder.name
        shutil.rmtree(copy, ignore_errors=True)
        return Path(shutil.copytree(folder, copy))


def _scorable(folder: Path) -> Path:
    from matformer_lab import tiny
    from tests.support.pico import PICO

    vocabulary = json.loads((tiny.model_dir() / "config.json").read_text())["vocab_size"]
    sizes = {"vocab_size": vocabulary, "vocab_size_per_layer_input": vocabulary}
    write_parent(folder, config={**PICO, **sizes, "max_position_embeddings": 4096}, dtype="float32")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(tiny.model_dir() / name, folder / name)
    return folder


def _said(out: Path) -> object:
    """What a sweep's folder says of its slices, in a form that can be compared."""
    sweep = read_sweep(out)
    return (
        sweep.parent.fingerprint,
        [(s.name, s.widths, s.skipped, s.effective) for s in sweep.scored],
        [
            (t.name, t.metric, t.n, t.slices, t.values, t.outcomes and t.outcomes.scores.tolist())
            for t in sweep.tasks
        ],
    )


def command(*arguments: object) -> int:
    """A command's exit code; whatever it says must be said in a few lines."""
    done = run_here(*arguments)
    assert done.code in (0, 1, 2, 130, 137), (done.code, done.err)
    if done.code == 2:
        assert done.err.startswith(("error: ", "warning: ")) and done.err.count("\n") <= 3, done.err
    return done.code


def said(code: int) -> str:
    return REFUSED if code else RIGHT


def mutations(place: Workplace) -> Iterator[Kind]:  # noqa: PLR0915 - one small function a kind
    config = (place.parent / "config.json").read_bytes()
    weights = (place.parent / "model.safetensors").read_bytes()

    def sliced(folder: Path, random: Random) -> str:
        code = command("plan", folder, "--slice", "1/2")
        if code or random.random() < 0.7:
            return said(code)
        out = place.scratch / "copies" / "sliced"
        shutil.rmtree(out, ignore_errors=True)
        code = command("slice", folder, "--slice", "1/2", "--out", out)
        if code:
            assert not out.exists()
            return REFUSED
        assert command("verify", out) == 0 and command("verify", out, "--parent", folder) == 0
        return RIGHT

    def a_config(random: Random) -> str:
        folder = place.copied(place.parent)
        new = (
            mutated(config, random)
            if random.random() < 0.5
            else json.dumps(swapped(json.loads(config), random)).encode()
        )
        (folder / "config.json").write_bytes(new)
        return sliced(folder, random)

    def a_header(random: Random) -> str:
        folder = place.copied(place.parent)
        length = int.from_bytes(weights[:8], "little")
        header = weights[8 : 8 + length]
        if random.random() < 0.5:
            header = mutated(header, random)
        else:
            header = json.dumps(swapped(json.loads(header), random)).encode()
        stated = len(header) if random.random() < 0.9 else random.choice((0, 7, 2**40, 2**63))
        data = stated.to_bytes(8, "little") + header + weights[8 + length :]
        (folder / "model.safetensors").write_bytes(data)
        return sliced(folder, random)

    def a_checkpoint(random: Random) -> str:
        folder = place.copied(place.child)
        path = random.choice(sorted(folder.iterdir()))
        old = path.read_bytes()
        new = changed(old, random)
        path.write_bytes(new)
        same = new == old or path.name == "README.md" or _same_manifest(path, old, new)
        for arguments in ((), ("--parent", place.parent)):
            code = command("verify", folder, *arguments)
            assert bool(code) != same, (path.name, arguments, "verify says", code)
        return said(code)

    def a_manifest(random: Random) -> str:
        folder = place.copied(place.child)
        old = json.loads((folder / MANIFEST_FILE).read_bytes())
        new = swapped(old, random)
        (folder / MANIFEST_FILE).write_text(json.dumps(new))
        checked = new != old or json.dumps(new, sort_keys=True) != json.dumps(old, sort_keys=True)
        if new.get("seal") is None:  # then nothing vouches for what is only said
            checked = _without_words(new) != _without_words(old)
        for parent in (None, place.parent):
            try:
                found = verify_checkpoint(folder, parent).problems
            except InputError as error:
                found = (str(error),)
            assert bool(found) or not checked, ("verify says ok", parent)
        return REFUSED if found else RIGHT

    def a_recipe(random: Random) -> str:
        path = place.scratch / "recipe.yaml"
        path.write_bytes(mutated(fuzz.RECIPE, random))
        opened = open_parent(place.parent)
        recipe = load_recipe(path)
        with suppress_refusal():
            resolve_slices(recipe.slices, opened, place.scratch)
        return RIGHT

    def a_slice_file(suffix: str, text: bytes) -> Callable[[Random], str]:
        def one(random: Random) -> str:
            opened = open_parent(place.parent)
            path = place.scratch / f"slices{suffix}"
            path.write_bytes(mutated(text, random))
            slices = resolve_slices([path.name], opened, place.scratch)
            full = opened.text.intermediate_size
            for slice_ in slices:
                kept = slice_.kept(len(full))
                assert len(kept) == len(slice_.widths) > 0
                assert all(0 < w <= full[n] for n, w in zip(kept, slice_.widths, strict=True))
            return RIGHT

        return one

    def a_baseline(random: Random) -> str:
        path = place.scratch / "mutated.yaml"
        text = place.baseline.read_bytes()
        path.write_bytes(mutated(text, random))
        result = run_gate(place.out, path)
        if not result.ok:
            return REFUSED
        passed = {(c.slice, c.task) for c in result.checks if c.status == "pass"}
        assert passed >= place.checks, "the gate passes with less checked"
        return RIGHT

    def a_table(name: str) -> Callable[[Random], str]:
        paths = sorted(path.relative_to(place.out) for path in place.out.glob(name))

        def one(random: Random) -> str:
            path = place.out / random.choice(paths)
            old = path.read_bytes()
            try:
                path.write_bytes(changed(old, random))
                assert _said(place.out) == place.truth, f"{path.name}: read as something else"
            finally:
                path.write_bytes(old)
            return RIGHT

        return one

    def a_stored_score(random: Random) -> str:
        path = random.choice(sorted(place.out.glob("store/*/*.parquet")))
        old = path.read_bytes()
        try:
            path.write_bytes(changed(old, random))
            store = Store(place.out / "store")
            whole = [job for job in place.jobs if store.get(job.key) is not None]
            for job in whole:
                assert store.items(job.key).equals(place.stored[job.key.digest]), "read otherwise"
        finally:
            path.write_bytes(old)
        return RIGHT if len(whole) == len(place.jobs) else REFUSED

    def a_marker(random: Random) -> str:
        folder = place.copied(place.out)
        (folder / "mine.txt").write_text("mine")
        marker = folder / ".matformer_lab_sweep.json"
        marker.write_bytes(mutated(marker.read_bytes(), random))
        try:
            run_sweep(place.recipe, folder, executor=place.executor, report=False)
        finally:
            assert (folder / "mine.txt").read_text() == "mine"
            assert _said(folder) == place.truth
        return RIGHT

    def an_order(random: Random) -> str:
        here = place.scratch / "copies" / "order"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir(parents=True)
        opened = open_parent(place.parent)
        plan = make_plan(opened, resolve_slices(["1/2"], opened)[0])

        def work() -> object:
            return write_checkpoint(plan, here / "child", max_shard_size=60_000, threads=1)

        kill_at(here, random.randint(5, 60), work)
        order = here / ".child.partial" / "order.json"
        if order.exists():
            order.write_bytes(mutated(order.read_bytes(), random))
        (here / ".child.partial").mkdir(exist_ok=True)
        mine = here / ".child.partial" / "mine.txt"
        if random.random() < 0.3:
            mine.write_text("mine")
        existed = mine.exists()
        try:
            work()
        except InputError:
            assert not (here / "child").exists() and existed == mine.exists()
            return REFUSED
        assert not existed and verify_checkpoint(here / "child", place.parent).ok
        return RIGHT

    yield Kind("config.json of a parent", a_config)
    yield Kind("header of a parent", a_header)
    yield Kind("a file of a checkpoint", a_checkpoint)
    yield Kind("values in a manifest", a_manifest)
    yield Kind("recipe", a_recipe)
    yield Kind("slice file, YAML", a_slice_file(".yaml", fuzz.YAML))
    yield Kind("slice file, CSV", a_slice_file(".csv", fuzz.CSV))
    yield Kind("baseline", a_baseline)
    for name in ("results.parquet", "results.csv", "slices.json", "recipe.yaml", "samples/*/*"):
        yield Kind(f"{name} of a sweep", a_table(name))
    yield Kind("a stored score", a_stored_score)
    yield Kind("a sweep's marker", a_marker)
    yield Kind("order.json of a killed slice", an_order)


def _same_manifest(path: Path, old: bytes, new: bytes) -> bool:
    if path.name != MANIFEST_FILE:
        return False
    with suppress(InputError):
        return strict_json(new, "") == strict_json(old, "")
    return False


def _without_words(manifest: dict[str, Any]) -> Any:
    """What of a manifest can be checked against the rest of the folder."""
    kept = {k: v for k, v in manifest.items() if k not in ("matformer_lab", "parent", "seal")}
    if isinstance(kept.get("slice"), dict):
        kept["slice"] = {k: v for k, v in kept["slice"].items() if k != "name"}
    kept.setdefault("digest", "blake3")
    return json.dumps(kept, sort_keys=True)


class suppress_refusal(suppress):  # noqa: N801 - reads as what it does
    def __init__(self) -> None:
        super().__init__(InputError)

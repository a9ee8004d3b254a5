"""The store: exact keys, staleness with its reason, whole files only."""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.score import Metric, Score
from matformer_lab.sweep.scores.key import Key
from matformer_lab.sweep.scores.store import Run, Store

KEY = Key(
    slice="a" * 64,
    task="mmlu",
    parent="b" * 64,
    tokenizer="c" * 64,
    task_version="2",
    prompt_hash="d" * 64,
    num_fewshot=5,
    seed=1234,
    limit=None,
    dtype="float32",
    device="cpu",
    scorer="lm-eval v1",
    lm_eval="0.4.13",
    torch="2.13.0",
    transformers="5.23.0",
)
RUN = Run(
    seconds=2.0,
    prompt_chars=100,
    effective_params=10,
    batch_size="auto",
    device_name="cpu",
    finished="2026-01-01T00:00:00+00:00",
)


def scored(value: float = 0.5, items: int = 2) -> Score:
    row = Metric("mmlu", None, "acc", value, None, items, 5, True, "2")
    outcomes = tuple(
        {"subtask": "mmlu_x", "doc_id": n, "acc": 1.0, "logprobs": [-1.5, -0.25 * n]}
        for n in range(items)
    )
    return Score((row,), outcomes)


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.get(KEY) is None
    store.put(KEY, scored(), RUN)
    entry = Store(tmp_path / "store").get(KEY)
    assert entry is not None
    assert (entry.metrics, entry.run) == (scored().metrics, RUN)
    assert store.items(KEY).to_pylist() == [dict(item) for item in scored().items]


def test_what_a_score_was_computed_with_comes_back_and_takes_no_room_where_there_is_nothing(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "store")
    run = dataclasses.replace(RUN, budgets=[{"mode": "compiled", "batch_tokens": 8192}])
    store.put(KEY, scored(), run)
    entry = store.get(KEY)
    assert entry is not None and entry.run == run
    store.put(KEY, scored(), RUN)
    assert b"budgets" not in entry.path.read_bytes()


def other_value(field: dataclasses.Field[Any]) -> Any:
    value = getattr(KEY, field.name)
    return "other" if isinstance(value, str) else 7


@pytest.mark.parametrize("field", dataclasses.fields(Key), ids=lambda field: field.name)
def test_a_score_counts_only_under_its_own_key(
    field: dataclasses.Field[Any], tmp_path: Path
) -> None:
    """Whatever can change the value: changed, the stored score is not used, and it says why."""
    store = Store(tmp_path)
    store.put(KEY, scored(), RUN)
    changed = dataclasses.replace(KEY, **{field.name: other_value(field)})
    assert store.get(changed) is None
    if field.name in ("slice", "task"):
        assert store.stale(changed) == ()  # another score, not an older state of this one
    else:
        (why,) = store.stale(changed)
        assert why.startswith(f"{field.name} ")
        assert why.endswith(f" -> {other_value(field)}")
    assert store.get(KEY) is not None


def test_stale_names_the_nearest_of_several(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(KEY, scored(), RUN)
    store.put(dataclasses.replace(KEY, torch="2.12.0", seed=1), scored(), RUN)
    assert store.stale(dataclasses.replace(KEY, torch="2.12.0")) == ("torch 2.13.0 -> 2.12.0",)


def test_both_states_stay_so_that_going_back_costs_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    short = dataclasses.replace(KEY, limit=5)
    store.put(short, scored(0.25), RUN)
    store.put(KEY, scored(0.75), RUN)
    found = [store.get(key) for key in (short, KEY)]
    assert [entry.metrics[0].value for entry in found if entry] == [0.25, 0.75]
    assert len(list(store.entries())) == 2


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_damaged_file_is_no_score(
    tmp_path: Path, keep: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    store.put(KEY, scored(), RUN)
    (path,) = tmp_path.glob("*/*.parquet")
    path.write_bytes(path.read_bytes()[:keep])
    with caplog.at_level(logging.WARNING):
        assert store.get(KEY) is None
    assert str(path) in caplog.text
    store.put(KEY, scored(), RUN)
    assert store.get(KEY) is not None


def test_a_file_under_a_foreign_name_is_not_taken_for_another_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(KEY, scored(), RUN)
    (path,) = tmp_path.glob("*/*.parquet")
    changed = dataclasses.replace(KEY, seed=1)
    path.rename(next(store._names(changed)))
    assert store.get(changed) is None


@settings(max_examples=60)
@given(data=st.data())
def test_one_flipped_bit_anywhere_makes_it_absent_and_named(data: st.DataObject) -> None:
    """In the outcomes, the metrics, the key, the schema, the digest, the footer."""
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.put(KEY, scored(items=50), RUN)
        (path,) = Path(folder).glob("*/*.parquet")
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, 8 * len(content) - 1))
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(content))
        with caught(logging.getLogger("matformer_lab.sweep.scores.store")) as lines:
            assert store.get(KEY) is None and store.get(KEY) is None
            assert not list(store.entries()) and not store.stale(KEY)
        assert len(lines) == 1 and str(path) in lines[0]
        with pytest.raises(InputError, match="removed or damaged"):
            store.items(KEY)
        store.put(KEY, scored(), RUN)
        assert store.get(KEY) is not None


@contextmanager
def caught(logger: logging.Logger) -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def test_scores_of_an_earlier_version_count_and_their_damage_is_seen(tmp_path: Path) -> None:
    """0.1.0 wrote page checksums and no digest."""
    import pyarrow.parquet as pq

    store = Store(tmp_path)
    store.put(KEY, scored(items=50), RUN)
    (path,) = tmp_path.glob("*/*.parquet")
    old = pq.read_table(path)
    key = b"matformer_lab"
    content = json.loads(pq.read_metadata(path).metadata[key])
    metadata = {key: json.dumps({**content, "format": 1})}
    pq.write_table(old.replace_schema_metadata(metadata), path, write_page_checksum=True)
    assert store.items(KEY).to_pylist() == [dict(item) for item in scored(items=50).items]
    damaged = bytearray(path.read_bytes())
    damaged[60] ^= 1
    path.write_bytes(bytes(damaged))
    assert store.get(KEY) is None
    store.put(KEY, scored(), RUN)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", ["text", "parquet", "folder", "link", "dangling link"])
def test_a_strangers_file_under_a_scores_name_stays(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = Store(tmp_path / "store")
    path = next(store._names(KEY))
    path.parent.mkdir(parents=True)
    mine = tmp_path / "mine"
    mine.write_text("mine")
    if kind == "text":
        path.write_text("mine")
    elif kind == "parquet":
        pq.write_table(pa.table({"mine": [1]}), path)
    elif kind == "folder":
        path.mkdir()
        (path / "mine").write_text("mine")
    else:
        path.symlink_to(mine if kind == "link" else tmp_path / "nowhere")
    before = path.lstat()
    for value in (0.25, 0.75):
        store.put(KEY, scored(value), RUN)
        entry = Store(tmp_path / "store").get(KEY)
        assert entry is not None and entry.metrics[0].value == value
        assert len(store.items(KEY)) == 2
    assert path.lstat() == before and mine.read_text() == "mine"
    assert len(list(path.parent.iterdir())) == 2


def _put_often(folder: Path, rounds: int) -> None:
    for _ in range(rounds):
        Store(folder).put(KEY, scored(items=200), RUN)


def test_two_writers_of_one_score_leave_one_whole_score(tmp_path: Path) -> None:
    context = get_context("spawn")
    writers = [context.Process(target=_put_often, args=(tmp_path, 30)) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        if any(tmp_path.glob("*/*.parquet")):
            assert Store(tmp_path).get(KEY) is not None
            seen += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".parquet"]


def test_mixed_answers_become_text(tmp_path: Path) -> None:
    store = Store(tmp_path)
    items = ({"doc_id": 0, "target": 1}, {"doc_id": 1, "target": "yes"}, {"doc_id": 2})
    store.put(KEY, Score(scored().metrics, items), RUN)
    assert store.items(KEY).column("target").to_pylist() == ["1", "yes", None]


def test_nothing_outside_the_folder_is_written_for_an_odd_task_name(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    odd = dataclasses.replace(KEY, task=f"..{os.sep}..{os.sep}up")
    store.put(odd, scored(), RUN)
    assert store.get(odd) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_what_came_later_leaves_older_keys_as_they_were() -> None:
    """Without chat template, generation arguments and task files of one's own."""
    older = {name: value for name, value in dataclasses.asdict(KEY).items() if value is not None}
    assert not {"turns", "gen_kwargs", "task_files"} & older.keys()
    older |= {"limit": KEY.limit, "num_fewshot": KEY.num_fewshot}
    text = json.dumps(older, sort_keys=True).encode()
    assert hashlib.sha256(text).hexdigest() == KEY.digest
    for name in ("turns", "gen_kwargs", "task_files"):
        changed: dict[str, Any] = {name: "x"}
        later = dataclasses.replace(KEY, **changed)
        assert later.digest != KEY.digest
        assert KEY.differences(later.fields) == (f"{name} x -> None",)
        assert later.differences(older) == (f"{name} None -> x",)

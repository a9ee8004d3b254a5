"""Per-layer embeddings off the accelerator. The `meta` device stands in for one: it takes part in
all of the scorer's operations, refuses operands that lie elsewhere, and only has no numbers.
"""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.scoring.batches.packing import Batch, Request, pack
from matformer_lab.scoring.per_layer_inputs import PerLayerInputFetcher, one_ahead
from matformer_lab.scoring.slice_scoring import layer_keys, score_batch
from matformer_lab.scoring.slice_trie import build_trie
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of


class Travels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the shape and bytes of every host tensor that is copied to the accelerator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sent: list[tuple[tuple[int, ...], int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        source = args[0] if args else None
        if (
            isinstance(source, torch.Tensor)
            and isinstance(result, torch.Tensor)
            and (source.device.type, result.device.type) == ("cpu", "meta")
        ):
            self.sent.append((tuple(source.shape), source.nbytes))
        return result


def batches() -> Iterator[Batch]:
    requests = [Request.of([2, *range(3, 40), n], [n, 5], 256) for n in range(3, 40)]
    return pack(requests, batch_tokens=64, attention_cost=1e-3)


@pytest.fixture
def parent(miniature: Path) -> Parent:
    return open_parent(str(miniature))


def test_the_accelerator_holds_what_the_plan_says_and_not_the_table(parent: Parent) -> None:
    elastic = ElasticParent.load(parent, device="meta")
    (full,) = resolve_slices(["full"], parent)
    on_host = {name for name, weight in elastic.weights.items() if weight.device.type == "cpu"}
    assert on_host == {"embed_tokens_per_layer.weight"}
    held = sum(weight.nbytes for weight in elastic.weights.values() if weight.is_meta)
    assert held == sizes_of(make_plan(parent, full)).accelerator_bytes
    for slice_ in resolve_slices(["published"], parent):
        live = elastic.live(slice_)
        assert all(parameter.is_meta for parameter in live.parameters())
        assert live.model.embed_tokens_per_layer.table is elastic.weights[on_host.copy().pop()]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_the_table_is_a_view_of_the_checkpoints_file(parent: Parent) -> None:
    elastic = ElasticParent.load(parent, device="meta")
    address = elastic.weights["embed_tokens_per_layer.weight"].data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(end, 16) for end in re.split("[- ]", line)[:2])
        if start <= address < stop:
            assert line.endswith(".safetensors")
            return
    raise AssertionError("the table lies nowhere")


def test_one_lookup_serves_all_slices_and_only_its_rows_travel(parent: Parent) -> None:
    elastic = ElasticParent.load(parent, device="meta")
    slices = resolve_slices(["e4b", "e2.98b-layer", "e2.49b-block", "e2b"], parent)
    models = {slice_.name: elastic.live(slice_) for slice_ in slices}
    trie = build_trie({name: layer_keys(model) for name, model in models.items()})
    fetcher = PerLayerInputFetcher(models["e4b"])
    batch = next(batches())
    with Travels() as travels:
        scores = score_batch(models, trie, batch, fetcher.fetch(batch))
    assert scores.keys() == models.keys()
    assert all(logprobs.shape == (len(batch.target),) for logprobs, _ in scores.values())

    text = parent.text
    rows = (*batch.input_ids.shape, text.num_hidden_layers, text.hidden_size_per_layer_input)
    assert [shape for shape, _ in travels.sent].count(rows) == 1
    # Beside it only token ids, places and targets: 8 bytes each.
    others = [shape for shape, _ in travels.sent if shape != rows]
    assert all(len(shape) <= 2 for shape in others)
    assert max(size for shape, size in travels.sent if shape != rows) <= 8 * batch.input_ids.size


def test_rows_of_an_accelerator_are_fetched_on_another_thread(parent: Parent) -> None:
    seen: list[str] = []

    class Watched(PerLayerInputFetcher):
        def fetch(self, batch: Batch) -> Any:
            seen.append(threading.current_thread().name)
            return super().fetch(batch)

    for device, here in (("cpu", True), ("meta", False)):
        (full,) = resolve_slices(["full"], parent)
        model = ElasticParent.load(parent, device=device).live(full)
        seen.clear()
        fetched = [batch.input_ids.tolist() for batch, _ in Watched(model).ahead(batches())]
        assert fetched == [batch.input_ids.tolist() for batch in batches()]
        assert len(fetched) > 1
        assert {name == threading.current_thread().name for name in seen} == {here}


def test_one_ahead_and_no_further() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    ahead = one_ahead(items())
    assert made == []
    for number in range(5):
        assert next(ahead) == number
        assert len(made) <= number + 2
    assert list(ahead) == []
    assert list(one_ahead(iter(()))) == []


def test_an_error_comes_with_its_item() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise torch.OutOfMemoryError("no room for rows")

    ahead = one_ahead(items())
    assert next(ahead) == 0
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        next(ahead)

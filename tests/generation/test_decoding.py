"""Texts written in batches, against transformers' `generate`, one prompt at a time."""

import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from matformer_lab.generation import decoding
from matformer_lab.generation.decoding import (
    LEAST_CAP_BYTES,
    DecodeBudget,
    NotFiniteLogitsError,
    decode_budget,
    forward_room,
    generate,
)
from matformer_lab.generation.sampling import Sampling
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from tests.support.pico import PICO, write_parent

NEW = 8
WINDOW = 8  # PICO's
Expected = Callable[[int], list[list[int]]]
SAMPLING = Sampling(temperature=1.5, top_k=20, top_p=0.95)


@pytest.fixture(scope="module")
def elastic(pico: Path) -> ElasticParent:
    return ElasticParent.load(open_parent(str(pico)), dtype=torch.float32)


def never(_: Sequence[int]) -> bool:
    return False


def alone(model: Any, prompt: Sequence[int], count: int = NEW) -> list[int]:
    ids = torch.tensor([list(prompt)])
    made = model.generate(ids, max_new_tokens=count, do_sample=False, eos_token_id=None)
    return list(made[0, len(prompt) :].tolist())


def prompts_of(seed: int) -> list[list[int]]:
    """Some that share a beginning, some that do not, one twice, one inside another."""
    draw = random.Random(seed)

    def tokens(least: int, most: int) -> list[int]:
        return [draw.randrange(3, 96) for _ in range(draw.randint(least, most))]

    beginning = tokens(0, 4 * WINDOW)
    prompts = [beginning + tokens(1, 3 * WINDOW) for _ in range(draw.randint(1, 3))]
    prompts += [tokens(1, 3 * WINDOW) for _ in range(draw.randint(0, 1))]
    return [*prompts, prompts[0], prompts[0][: max(1, len(prompts[0]) // 2)]]


@pytest.fixture(scope="module")
def expected(elastic: ElasticParent) -> Expected:
    model = elastic.live("full")
    return cache(lambda seed: [alone(model, prompt) for prompt in prompts_of(seed)])


@pytest.mark.parametrize("seed", range(3))
def test_every_prompt_gets_what_it_gets_alone(
    elastic: ElasticParent, expected: Expected, seed: int
) -> None:
    model = elastic.live("full")
    texts = expected(seed)
    assert len({tuple(text) for text in texts}) > 1
    for budget in (DecodeBudget(10_000), DecodeBudget(120, 3)):
        made = generate(model, prompts_of(seed), max_new_tokens=NEW, is_done=never, budget=budget)
        assert made == texts


def test_a_slice_that_skips_layers_and_one_with_no_shared_kv(
    miniature: Path, tmp_path: Path
) -> None:
    skipping = ElasticParent.load(open_parent(str(miniature))).live("e2b")
    folder = write_parent(tmp_path, config={**PICO, "num_kv_shared_layers": 0}, dtype="float32")
    none = ElasticParent.load(open_parent(str(folder))).live("full")
    prompts = [[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [3, 4, 5, 20, 21], [30]]
    for model in (skipping, none):
        texts = generate(model, prompts, max_new_tokens=4, is_done=never)
        assert texts == [alone(model, prompt, 4) for prompt in prompts]


def test_long_prompts_go_through_in_pieces(
    elastic: ElasticParent, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = elastic.live("full")
    monkeypatch.setattr("matformer_lab.generation.decoding.PRODUCTS_AT_ONCE", 2 * 40 * 5)
    assert generate(model, prompts_of(1), max_new_tokens=NEW, is_done=never) == expected(1)


def test_a_text_ends_where_it_is_done_and_leaves_the_others_alone(
    elastic: ElasticParent, expected: Expected
) -> None:
    model = elastic.live("full")
    texts = expected(2)
    ends = {text[5] for text in texts[::2]} | {texts[0][0]}

    def cut(text: list[int]) -> list[int]:
        stops = [place for place, token in enumerate(text) if token in ends]
        return text[: stops[0] + 1] if stops else text

    made = generate(
        model, prompts_of(2), max_new_tokens=NEW, is_done=lambda tokens: tokens[-1] in ends
    )
    assert made == [cut(text) for text in texts]
    assert len({len(text) for text in made}) > 1


def test_drawn_texts_depend_on_seed_and_prompt_alone(elastic: ElasticParent) -> None:
    model = elastic.live("full")
    prompts = prompts_of(3)

    def drawn(some: Sequence[Sequence[int]], seed: int, rows: int = 256) -> list[list[int]]:
        return generate(
            model,
            some,
            max_new_tokens=NEW,
            is_done=never,
            sampling=SAMPLING,
            seed=seed,
            budget=DecodeBudget(10_000, rows),
        )

    together = drawn(prompts, 1)
    assert drawn(prompts, 1) == together
    assert drawn(prompts, 1, rows=2) == together
    assert drawn(prompts[1:2], 1) == together[1:2]
    assert drawn(prompts, 2) != together
    twice = prompts.index(prompts[0], 1)
    assert together[twice] != together[0]  # a prompt that comes twice gets two texts


def test_what_is_drawn_from_the_likeliest_alone_is_greedy(
    elastic: ElasticParent, expected: Expected
) -> None:
    model = elastic.live("full")
    made = generate(
        model, prompts_of(0), max_new_tokens=NEW, is_done=never, sampling=Sampling(0.7, top_k=1)
    )
    assert made == expected(0)


def test_progress_counts_tokens_and_ends_at_all(elastic: ElasticParent) -> None:
    calls: list[tuple[int, int]] = []
    prompts = prompts_of(0)
    generate(
        elastic.live("full"),
        prompts,
        max_new_tokens=NEW,
        is_done=lambda tokens: len(tokens) == 3,
        budget=DecodeBudget(10_000, 2),
        progress=lambda *call: calls.append(call),
    )
    work = sum(map(len, prompts)) + NEW * len(prompts)
    assert {count for _, count in calls} == {work}
    assert calls == sorted(calls) and calls[-1] == (work, work)


def test_logits_that_are_no_numbers_stop_it(elastic: ElasticParent) -> None:
    model = elastic.live("full")
    # One token's embedding: only the prompt that has it is at fault.
    embed = model.model.embed_tokens
    weight = embed.weight.clone()
    weight[7] = torch.nan
    model.model.embed_tokens.weight = torch.nn.Parameter(weight, requires_grad=False)
    model.lm_head = torch.nn.Linear(32, 96, bias=False)
    with pytest.raises(NotFiniteLogitsError) as error:
        generate(model, [[3, 4, 5], [3, 7]], max_new_tokens=NEW, is_done=never)
    assert error.value.prompt == 1


def test_the_model_is_left_as_it_was(elastic: ElasticParent) -> None:
    model = elastic.live("full")

    def stop(_: Sequence[int]) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, [[3, 4]], max_new_tokens=NEW, is_done=stop)
    assert {layer.self_attn.config._attn_implementation for layer in model.model.layers} == {"sdpa"}
    assert all("forward" not in vars(layer.mlp) for layer in model.model.layers)


def test_an_accelerator_that_runs_out_of_memory_gets_smaller_batches(
    elastic: ElasticParent, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matformer_lab.generation import decoding
    from matformer_lab.generation.forward import extend

    model = elastic.live("full")

    def short(model: Any, held: Any, tokens: Any, *rest: Any, **options: Any) -> Any:
        if len(tokens) > 2:
            raise torch.OutOfMemoryError
        return extend(model, held, tokens, *rest, **options)

    monkeypatch.setattr(decoding, "extend", short)
    assert generate(model, prompts_of(1), max_new_tokens=NEW, is_done=never) == expected(1)


def test_the_budget_grows_with_the_room_and_is_never_nothing(elastic: ElasticParent) -> None:
    model = elastic.live("full")
    # 5 layers with their own K/V, 2 x 1 head x 16 numbers of 4 bytes.
    assert decode_budget(2 * 5 * 2 * 16 * 4 * 1000, model).tokens == 1000
    assert decode_budget(0, model) == DecodeBudget(1, 1)
    assert decode_budget(1 << 40, model).rows == 256


@pytest.mark.parametrize(
    ("free", "embed_bytes", "room"),
    [
        (70 << 30, 10**9, 8 * 10**8),  # however much is free
        (60 << 30, 10**9, 8 * 10**8),
        (70 << 30, 1000, LEAST_CAP_BYTES),
        (10**8, 10**9, 5 * 10**7),
    ],
)
def test_a_forward_on_a_gpu_leaves_its_room_to_keys_and_values(
    monkeypatch: pytest.MonkeyPatch, free: int, embed_bytes: int, room: int
) -> None:
    monkeypatch.setattr(decoding, "free_bytes", lambda _: free)
    weight = SimpleNamespace(device=torch.device("cuda", 0), nbytes=embed_bytes)
    model: Any = SimpleNamespace(model=SimpleNamespace(embed_tokens=SimpleNamespace(weight=weight)))
    assert forward_room(model) == room

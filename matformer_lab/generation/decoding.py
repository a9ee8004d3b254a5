"""Texts that a live slice writes after many prompts, a batch of prompts at a time.

Each prompt gets what it would get alone, up to rounding: its rows leave the batch when they are
done, and are not read beyond that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from matformer_lab.generation.attention import attends_split
from matformer_lab.generation.batches import DecodeBatch, decode_batches
from matformer_lab.generation.forward import extend
from matformer_lab.generation.key_values import KeyValues, Shared
from matformer_lab.generation.sampling import Sampling, likeliest, uniforms
from matformer_lab.live.devices import free_bytes, has_own_memory
from matformer_lab.scoring.batches.token_budget import MOST_TOKENS, tokens_within
from matformer_lab.scoring.packed_forward import check_transformers
from matformer_lab.scoring.slice_scoring import attention_cost

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

MOST_ROWS: Final = 256
PRODUCTS_AT_ONCE: Final = 1 << 26
"""Products of queries and keys that a forward makes at once: 256 MiB in fp32."""
LOGIT_BYTES: Final = 32
"""Bytes for each logit of a step: it, its fp32 copy, its warped value, its probability and their
cumulative sum."""
FEWEST_SHARED: Final = 16
"""Tokens: fewer are computed for each row, as attention to two kinds of keys costs more than it
saves. BOS and `Question:` are an example."""
FEWEST_ROWS_LEFT: Final = 0.75
"""A batch is copied without its finished rows once less than this share of it is left."""
LEAST_CAP_BYTES: Final = 1 << 28
"""An accelerator's cap on activations is never below this, however small the weights."""


class NotFiniteLogitsError(ValueError):
    """The logits of a next token are not finite.

    Attributes:
        prompt: The number of the prompt.
    """

    def __init__(self, prompt: int) -> None:
        super().__init__(f"the logits after prompt {prompt} are not finite")
        self.prompt = prompt


@dataclass(frozen=True)
class DecodeBudget:
    """What a batch may hold.

    Attributes:
        tokens: The most tokens whose keys and values are held.
        rows: The most prompts.
    """

    tokens: int
    rows: int = MOST_ROWS

    def halved(self) -> DecodeBudget:
        return DecodeBudget(max(1, self.tokens // 2), max(1, self.rows // 2))


def decode_budget(room: int, model: Gemma3nForCausalLM) -> DecodeBudget:
    """What fits into `room` bytes: half of it for keys and values, a quarter for logits."""
    config = model.config
    with_own = sum(not layer.self_attn.is_kv_shared_layer for layer in model.model.layers)
    size = 2 * config.num_key_value_heads * config.head_dim * model.dtype.itemsize
    rows = room // 4 // (LOGIT_BYTES * config.vocab_size)
    return DecodeBudget(max(1, room // 2 // (with_own * size)), max(1, min(MOST_ROWS, rows)))


def forward_room(model: Gemma3nForCausalLM) -> int:
    """Bytes that the activations of a forward may take: half of what is free.

    On an accelerator at most four fifths of `embed_tokens`, which every slice has whole: for E4B
    9.5 % of the plan's `accelerator_bytes`, which is thousands of tokens. The rest of the room is
    better spent on keys and values.
    """
    weight = model.model.embed_tokens.weight
    room = free_bytes(weight.device) // 2
    if has_own_memory(weight.device):
        room = min(room, max(weight.nbytes * 4 // 5, LEAST_CAP_BYTES))
    return room


def generate(
    model: Gemma3nForCausalLM,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    is_done: Callable[[Sequence[int]], bool],
    sampling: Sampling | None = None,
    seed: int = 0,
    budget: DecodeBudget | None = None,
    progress: Callable[[int, int], None] = lambda _done, _count: None,
) -> list[list[int]]:
    """The tokens that `model` writes after each prompt.

    Args:
        model: A live slice, in eval mode.
        prompts: Token ids, at least one each.
        max_new_tokens: The most tokens of a text.
        is_done: Whether a text ends here, given its tokens so far; asked after every token.
        sampling: How tokens are drawn; None: the likeliest is taken.
        seed: Of the draws. A prompt that is given twice is drawn for twice.
        budget: Bounds of a batch; None chooses by free memory. An accelerator that runs out of
            memory halves them until they fit.
        progress: Called with (tokens done, tokens in all), prompts included. What a text that ends
            early does not need counts as done.

    Returns:
        One text for each prompt, in their order.

    Raises:
        NotFiniteLogitsError: When the logits of a next token are NaN or infinite.
        InputError: For transformers older than 5.6.
        torch.OutOfMemoryError: When even one prompt does not fit.
    """
    check_transformers()
    device = model.model.embed_tokens.weight.device
    budget = budget or decode_budget(free_bytes(device) // 2, model)
    before: Counter[tuple[int, ...]] = Counter()
    draws: list[Tensor] = []
    if sampling is not None:
        for prompt in prompts:
            key = tuple(prompt)
            draws.append(uniforms(seed, key, before[key], max_new_tokens))
            before[key] += 1
    decoder = _Decoder(model, prompts, max_new_tokens, is_done, sampling, draws, progress)
    todo = list(range(len(prompts)))
    with torch.inference_mode(), attends_split(model):
        while todo:
            batches = decode_batches(
                [prompts[number] for number in todo],
                max_new_tokens,
                capacity=budget.tokens,
                most_rows=budget.rows,
                attention_cost=attention_cost(model.config),
            )
            done: set[int] = set()
            try:
                for batch in batches:
                    members = tuple(todo[each] for each in batch.members)
                    decoder.decode(DecodeBatch(batch.shared, members))
                    done.update(members)
            except torch.OutOfMemoryError:
                if budget.rows == 1:
                    raise
                budget = budget.halved()
            todo = [number for number in todo if number not in done]
    return [decoder.texts[number] for number in range(len(prompts))]


class _Decoder:
    """Decodes batches of the prompts of one call."""

    def __init__(
        self,
        model: Gemma3nForCausalLM,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        is_done: Callable[[Sequence[int]], bool],
        sampling: Sampling | None,
        draws: Sequence[Tensor],
        progress: Callable[[int, int], None],
    ) -> None:
        self._model = model
        self._prompts = prompts
        self._max_new_tokens = max_new_tokens
        self._is_done = is_done
        self._sampling = sampling
        self._draws = draws
        self._progress = progress
        self._device = model.model.embed_tokens.weight.device
        self._tokens_at_once = min(MOST_TOKENS, tokens_within(forward_room(model), model))
        self._work = sum(len(prompt) + max_new_tokens for prompt in prompts)
        self._done = self._shown = 0
        self.texts: dict[int, list[int]] = {}

    def decode(self, batch: DecodeBatch) -> None:
        """Write the texts of a batch, into `texts`."""
        if batch.shared < FEWEST_SHARED:
            batch = batch._replace(shared=0)
        finished = self._done
        texts: dict[int, list[int]] = {number: [] for number in batch.members}
        rows = list(batch.members)  # of the held keys and values; some may be done
        own = [self._prompts[number][batch.shared :] for number in rows]
        width = len(own[0])  # the longest comes first
        held = KeyValues.empty(
            self._model,
            self._shared(self._prompts[rows[0]][: batch.shared]),
            [width - len(tokens) for tokens in own],
            width + self._max_new_tokens - 1,
        )
        newest: list[int] = []
        for logits in self._prefilled(held, own):
            some = rows[len(newest) : len(newest) + len(logits)]
            newest += self._chosen(logits, some, 0)
            self._advance(sum(len(self._prompts[number]) for number in some))
        going: set[int] = set(rows)
        for step in range(self._max_new_tokens):
            for number, token in zip(rows, newest, strict=True):
                if number in going:
                    texts[number].append(token)
                    if self._is_done(texts[number]):
                        going.remove(number)
            self._advance(len(going))
            if not going or step + 1 == self._max_new_tokens:
                break
            if len(going) < FEWEST_ROWS_LEFT * len(rows):
                places = [place for place, number in enumerate(rows) if number in going]
                held = held.only(places)
                rows = [rows[place] for place in places]
                newest = [newest[place] for place in places]
            tokens = torch.tensor(newest, device=self._device)[:, None]
            after = extend(self._model, held, tokens, width + step, read=True, check=False)
            assert after is not None, "it was asked to read"
            newest = self._chosen(after, rows, step + 1, going)
        self.texts |= texts
        wanted = sum(len(self._prompts[number]) + self._max_new_tokens for number in texts)
        self._done = finished + wanted
        self._advance(0)

    def _shared(self, tokens: Sequence[int]) -> Shared | None:
        if not tokens:
            return None
        held = KeyValues.empty(self._model, None, [0], len(tokens))
        for _ in self._in_pieces(held, self._matrix([tokens], len(tokens)), 0, read=False):
            pass
        return held.as_shared(len(tokens))

    def _prefilled(self, held: KeyValues, own: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """The logits after the prompts, some rows at a time."""
        width = len(own[0])
        start = 0
        while start < len(own):
            longest = len(own[start])
            count = max(1, self._at_once(held, longest) // longest)
            some = slice(start, start + count)
            tokens = self._matrix(own[some], longest)
            yield from self._in_pieces(held.rows(some), tokens, width - longest, read=True)
            start += count

    def _in_pieces(
        self, held: KeyValues, tokens: Tensor, first: int, *, read: bool
    ) -> Iterator[Tensor]:
        """Take tokens through the model some columns at a time; the logits after the last."""
        rows, width = tokens.shape
        step = max(1, self._at_once(held, width) // rows)
        for start in range(0, width, step):
            piece = tokens[:, start : start + step]
            last = start + step >= width
            logits = extend(self._model, held, piece, first + start, read=read and last)
            if logits is not None:
                yield logits

    def _at_once(self, held: KeyValues, width: int) -> int:
        """How many tokens a forward may have, each of which attends to at most `width` own keys."""
        keys = self._model.config.num_attention_heads * (held.shared.length + width)
        return min(self._tokens_at_once, max(1, PRODUCTS_AT_ONCE // keys))

    def _matrix(self, rows: Sequence[Sequence[int]], width: int) -> Tensor:
        """[rows, width] token ids, right-aligned."""
        padded = [[0] * (width - len(tokens)) + list(tokens) for tokens in rows]
        return torch.tensor(padded, device=self._device)

    def _chosen(
        self, logits: Tensor, rows: Sequence[int], step: int, going: set[int] | None = None
    ) -> list[int]:
        """The next token of each row; of rows that are done, any."""
        finite = logits.sum(dim=-1, dtype=torch.float32).isfinite()
        if not bool(finite.all()):
            for number, is_finite in zip(rows, finite.tolist(), strict=True):
                if not is_finite and (going is None or number in going):
                    raise NotFiniteLogitsError(number)
        if self._sampling is None:
            return [int(token) for token in likeliest(logits).tolist()]
        uniform = torch.stack([self._draws[number][step] for number in rows]).to(self._device)
        return [int(token) for token in self._sampling.draw(logits, uniform).tolist()]

    def _advance(self, tokens: int) -> None:
        self._done += tokens
        self._shown = max(self._shown, self._done)  # a batch may run out of memory
        self._progress(self._shown, self._work)

"""How long scoring will take: the FLOPs of the packed requests, over the speed of this machine.

A few items of every task are tokenised and packed, so that an estimate takes a second or two
however long the sweep: what items have in common and what each adds follow from two samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from matformer_lab.common.progress import duration
from matformer_lab.evaluation.agreement import AgreementTask
from matformer_lab.evaluation.tasks.loading import LoadedTask
from matformer_lab.gemma3n import EMBED_TOKENS, split_layer
from matformer_lab.scoring.batches.packed_work import PackedWork, work_of
from matformer_lab.scoring.batches.packing import Request, pack
from matformer_lab.scoring.slice_trie import TrieNode, build_trie
from matformer_lab.sweep.jobs import Job, Prepared
from matformer_lab.sweep.passes import passes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from matformer_lab.gemma3n import TextConfig

_SAMPLED_CHARS: Final = 400_000
"""Of a task: under a second of tokenising."""
_BATCH_TOKENS: Final = 8192
_LONG_SECONDS: Final = 3600
_SHORT_SECONDS: Final = 600


@dataclass(frozen=True)
class TaskWork:
    """The work of a task as a line: what its items share, and what each of them adds.

    Attributes:
        fixed: What the items have in common; again for every row that is full.
        each: What an item of each of its leaf tasks adds.
        items: Items of a leaf task, on average.
    """

    fixed: PackedWork
    each: PackedWork
    items: float

    def at(self, limit: float | None = None) -> PackedWork:
        """The work of so many items of each leaf task; None: of all."""
        count = self.items if limit is None else min(limit, self.items)
        own = self.each * count
        return own + self.fixed * max(1.0, own.tokens / _BATCH_TOKENS)


@dataclass(frozen=True)
class Estimate:
    """How long the rest of a sweep takes.

    Attributes:
        seconds: All of it.
        short_limit: Where that is above an hour: the `limit` that takes ten minutes; 0 where even
            one item of each task takes longer.
    """

    seconds: float
    short_limit: int | None = None

    def __str__(self) -> str:
        if self.seconds < 1:
            return duration(self.seconds)
        if self.short_limit is None:
            return f"about {duration(self.seconds)}"
        advice = (
            f"`limit` {self.short_limit} would take ten minutes"
            if self.short_limit
            else "one item of each task takes more than ten minutes"
        )
        return f"about {duration(self.seconds)} ({advice})"


def estimate(
    prepared: Prepared, pending: Sequence[Job], flops_per_second: float
) -> Estimate | None:
    """How long it takes to score jobs; None where they are not scored by packed requests.

    Args:
        prepared: The sweep.
        pending: Its jobs to score.
        flops_per_second: Of the machine, all of its processes together.
    """
    groups = list(passes(pending))
    if prepared.recipe.scorer != "prefix" or not groups:
        return None
    works: dict[str, TaskWork] = {}
    for task in {group[0].task.name: group[0].task for group in groups}.values():
        work = task_work(task, prepared.tokenizer, prepared.parent.text)
        if work is None:
            return None
        works[task.name] = work

    def seconds(limit: float | None = None) -> float:
        flops = (pass_flops(group, works[group[0].task.name].at(limit)) for group in groups)
        return sum(flops) / flops_per_second

    if seconds() <= _LONG_SECONDS:
        return Estimate(seconds())
    low, high = 0, int(max(work.items for work in works.values())) + 1
    while high - low > 1:  # the largest limit within ten minutes
        middle = (low + high) // 2
        low, high = (middle, high) if seconds(middle) <= _SHORT_SECONDS else (low, middle)
    return Estimate(seconds(), low)


def task_work(
    task: LoadedTask, tokenizer: PreTrainedTokenizerBase, text: TextConfig
) -> TaskWork | None:
    """The work of a task, from a sample of its items; None where it has none that is packed."""
    if isinstance(task, AgreementTask) or any(
        request.request_type != "loglikelihood" for request in task.requests
    ):
        return None
    leaves: dict[str, dict[int, list[tuple[str, str]]]] = {}
    for request in task.requests:
        leaves.setdefault(request.task_name, {}).setdefault(request.doc_id, []).append(request.args)
    items = task.items / len(leaves)
    fits = int(_SAMPLED_CHARS / (task.prompt_chars / task.items) / len(leaves))
    count = min(max(2, fits), max(map(len, leaves.values())))
    half = (count + 1) // 2

    def packed(first: int) -> PackedWork:
        works = (
            _packed(
                [pair for pairs in list(leaf.values())[:first] for pair in pairs], tokenizer, text
            )
            for leaf in leaves.values()
        )
        return sum(works, PackedWork())

    most = packed(count)
    if count == half:
        return TaskWork(PackedWork(), most * (1 / count), items)
    each = most.beyond(packed(half)) * (1 / (count - half))
    return TaskWork(most.beyond(each * count), each, items)


def _packed(
    pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, text: TextConfig
) -> PackedWork:
    requests = sampled_requests(pairs, tokenizer, text.max_position_embeddings)
    cost = text.num_attention_heads * text.head_dim / (4 * text.hidden_size**2)
    return work_of(pack(requests, batch_tokens=_BATCH_TOKENS, attention_cost=cost))


def sampled_requests(
    pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Request]:
    """Requests for counting tokens: encoded at once, not pair by pair as for scoring.

    Args:
        pairs: Context and continuation.
        tokenizer: The parent's.
        max_length: As for `Request.of`.
    """
    contexts = tokenizer([context for context, _ in pairs])["input_ids"]
    wholes = tokenizer(["".join(pair) for pair in pairs])["input_ids"]
    requests = []
    for context, whole in zip(contexts, wholes, strict=True):
        kept = max(1, min(len(context), len(whole) - 1))
        continuation = whole[kept:] or whole[-1:]
        requests.append(Request.of(whole[:kept], continuation[:max_length], max_length))
    return requests


def pass_flops(jobs: Sequence[Job], work: PackedWork) -> float:
    """FLOPs of scoring jobs of one task in one pass: two for each weight that a token meets.

    Layers that slices share are counted once. Layers that reuse K/V compute the scored tokens
    alone, and the LM head does too.
    """
    text = jobs[0].plan.parent.text
    layers = {job.key.slice: _layers(job) for job in jobs}
    heads = text.num_attention_heads * text.head_dim

    def below(node: TrieNode) -> float:
        flops = sum(map(below, node.children))
        for (layer, _), weights in layers[node.below[0]][node.start : node.stop]:
            reuses = layer >= text.first_kv_shared_layer
            tokens, pairs = (
                (work.scored, work.scored_pairs) if reuses else (work.computed, work.pairs)
            )
            flops += 2 * weights * tokens + 4 * heads * pairs
        return flops

    trie = build_trie({name: [key for key, _ in own] for name, own in layers.items()})
    head = jobs[0].plan.text_tensors()[EMBED_TOKENS].numel
    return below(trie) + len(jobs) * 2 * head * work.scored


def _layers(job: Job) -> list[tuple[tuple[int, int], int]]:
    """Of each layer: (parent layer, FFN width), and its weights."""
    weights: dict[int, int] = {}
    for name, tensor in job.plan.text_tensors().items():
        layer = split_layer(name).layer
        if layer is not None:
            weights[layer] = weights.get(layer, 0) + tensor.numel
    return [(key, weights[number]) for number, key in enumerate(job.plan.widths.items())]

"""Pending jobs as passes: one task on a few slices that share layers, scored in one go."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from matformer_lab.scoring.slice_trie import TrieNode, build_trie
from matformer_lab.sweep.jobs import Job

Layers = Mapping[str, Sequence[tuple[int, int]]]
"""Slices by digest, each layer as (parent layer, FFN width)."""

# A pass that is killed is lost. All 16 published slices in one would save a little more work, and
# risk twice as much.
SLICES_PER_PASS: Final = 8


def passes(pending: Sequence[Job], workers: int = 1) -> Iterator[tuple[Job, ...]]:
    """The jobs in the order of their tasks, in passes over slices with common first layers.

    Where the slices allow it, no pass is more than the `workers`-th part of the whole work.
    """
    by_task = {
        task: {job.key.slice: job for job in pending if job.task.name == task}
        for task in dict.fromkeys(job.task.name for job in pending)
    }
    most = sum(pass_cost(tuple(jobs.values())) for jobs in by_task.values()) / workers

    for jobs in by_task.values():

        def fits(names: Sequence[str], jobs: Mapping[str, Job] = jobs) -> bool:
            small = len(names) <= SLICES_PER_PASS
            return small and pass_cost([jobs[name] for name in names]) <= most

        for names in _cut(build_trie(_layers(jobs.values())), fits):
            yield tuple(jobs[name] for name in names)


def pass_cost(jobs: Sequence[Job]) -> float:
    """Proportional to the expected time of a pass in which shared layers are computed once."""
    layers = _layers(jobs)
    hidden_size = jobs[0].plan.text.hidden_size
    everywhere = sum(3 * hidden_size * width for job in jobs for _, width in layers[job.key.slice])
    # What a layer has besides its FFN, averaged: all layers have about the same.
    rest = (sum(job.sizes.effective for job in jobs) - everywhere) / sum(
        len(layers[job.key.slice]) for job in jobs
    )

    def parameters(node: TrieNode) -> float:
        own = layers[node.below[0]][node.start : node.stop]
        below = sum(parameters(child) for child in node.children)
        return sum(3 * hidden_size * width + rest for _, width in own) + below

    return jobs[0].task.prompt_chars * parameters(build_trie(layers))


def _layers(jobs: Iterable[Job]) -> Layers:
    return {job.key.slice: list(job.plan.widths.items()) for job in jobs}


def _cut(node: TrieNode, fits: Callable[[Sequence[str]], bool]) -> list[tuple[str, ...]]:
    """The slices below `node`: in one if that fits, else branch by branch, small ones together."""
    if len(node.below) == 1 or fits(node.below):
        return [node.below]
    parts: list[tuple[str, ...]] = [(name,) for name in node.ending]
    parts += [part for child in node.children for part in _cut(child, fits)]
    merged = parts[:1]
    for part in parts[1:]:
        if fits(merged[-1] + part):
            merged[-1] += part
        else:
            merged.append(part)
    return merged

"""Pending jobs grouped into passes: one task on a few slices that share layers.

The slices of a pass are scored together, so that layers they share are computed once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from matformer_lab.scoring.slice_trie import TrieNode, build_trie
from matformer_lab.sweep.jobs import Job

Layers = Mapping[str, Sequence[tuple[int, int]]]
"""The layers of each slice, by its digest; a layer is (parent layer, FFN width)."""

SLICES_PER_PASS: Final = 8
"""A killed pass is lost. All 16 published slices in one pass would save a little more work, and
risk twice as much."""


def passes(pending: Sequence[Job], workers: int = 1) -> Iterator[tuple[Job, ...]]:
    """Group jobs into passes over slices that share their first layers, task by task.

    Args:
        pending: The jobs.
        workers: How many passes run at a time. Where the slices allow it, no pass costs more than
            this share of the whole work.
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

        for names in _split(build_trie(_layers(jobs.values())), fits):
            yield tuple(jobs[name] for name in names)


def pass_cost(jobs: Sequence[Job]) -> float:
    """The cost of scoring jobs of one task in one pass, shared layers counted once.

    Proportional to the expected time, as `Job.cost`.
    """
    layers = _layers(jobs)
    hidden_size = jobs[0].plan.text.hidden_size
    ffns = sum(3 * hidden_size * width for job in jobs for _, width in layers[job.key.slice])
    # The parameters of a layer besides its FFN: about the same in every layer, so averaged.
    rest = (sum(job.sizes.effective for job in jobs) - ffns) / sum(
        len(layers[job.key.slice]) for job in jobs
    )

    def parameters(node: TrieNode) -> float:
        own = layers[node.below[0]][node.start : node.stop]
        below = sum(parameters(child) for child in node.children)
        return sum(3 * hidden_size * width + rest for _, width in own) + below

    return jobs[0].task.prompt_chars * parameters(build_trie(layers))


def _layers(jobs: Iterable[Job]) -> Layers:
    return {job.key.slice: list(job.plan.widths.items()) for job in jobs}


def _split(node: TrieNode, fits: Callable[[Sequence[str]], bool]) -> list[tuple[str, ...]]:
    """The slices below `node`: in one pass if that fits, else by branch, small ones merged."""
    if len(node.below) == 1 or fits(node.below):
        return [node.below]
    parts: list[tuple[str, ...]] = [(name,) for name in node.ending]
    parts += [part for child in node.children for part in _split(child, fits)]
    merged = parts[:1]
    for part in parts[1:]:
        if fits(merged[-1] + part):
            merged[-1] += part
        else:
            merged.append(part)
    return merged

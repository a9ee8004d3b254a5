"""Agreement with the parent on a text, as a task: how good a draft of its parent a slice is.

It needs no labels and no prompts. The text is cut into windows, which are its items: a window's
`kl` is the mean divergence of the slice's next token from the parent's (nats a token, 0 for the
parent), its `top1` the share of tokens for which both hold the same one likeliest.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from matformer_lab import tiny
from matformer_lab.common.errors import InputError
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.evaluation.finite import NotFiniteError, NotFiniteScoresError, check_finite
from matformer_lab.evaluation.score import Metric, Score
from matformer_lab.evaluation.tasks.loading import LoadedTask
from matformer_lab.evaluation.tasks.split import Split, split_items

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM, PreTrainedTokenizerBase

    from matformer_lab.scoring.batches.packing import Request
    from matformer_lab.scoring.journal import Journal

AGREEMENT: Final = "agreement"
"""The name of the task."""
TOP1: Final = "top1"
KL: Final = "kl"
_VERSION: Final = "agreement v1"
_MAX_BYTES: Final = 1 << 28
_WINDOW: Final = 256
"""Tokens of a window, the one at its start aside."""
_FEWEST: Final = 4
"""Windows; a text that has fewer says nothing."""


class AgreementText(BaseModel):
    """The text, and how much of it counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Annotated[Path, Field(description="A UTF-8 text file; `tiny`: the embedded parent's.")]
    tokens: Annotated[
        StrictInt, Field(gt=0, lt=2**31, description="Its first so many tokens count.")
    ] = 65_536


@dataclass(frozen=True)
class AgreementTask(LoadedTask):
    """Windows of a text.

    Attributes:
        windows: The token ids of each, without the BOS; those of the chosen part of a split.
    """

    windows: tuple[tuple[int, ...], ...] = field(default=(), repr=False, compare=False)


def load_agreement(
    asked: AgreementText,
    base: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    split: Split | None = None,
) -> AgreementTask:
    """Read a text and cut it into windows.

    Args:
        asked: As in a recipe.
        base: The folder that a relative file name starts from.
        tokenizer: The parent's.
        max_length: The most tokens that the parent reads.
        split: Which windows to take; None: all of them. `calibration` and `proof` are then shares
            of the windows, as many of each calibration set as of the proof.

    Raises:
        InputError: When the file cannot be read, is not UTF-8, or is too short.
    """
    path = tiny.text_file() if str(asked.text) == "tiny" else base / asked.text
    data = read_small(path, _MAX_BYTES)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 (byte {error.start:,}); save the text in UTF-8"
        ) from None
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if len(ids) < asked.tokens:
        raise InputError(
            f"{path}: the text is too short: it has {len(ids):,} tokens, and {asked.tokens:,} are "
            "asked for; lower `tokens`, or give a longer text"
        )
    size = min(_WINDOW, max_length - 1, max(1, asked.tokens // _FEWEST))
    every = [tuple(ids[at : at + size]) for at in range(0, asked.tokens - size + 1, size)]
    chosen = None
    if split is not None:
        chosen = _part(every, split, path)
    windows = tuple(every if chosen is None else (every[place] for place in chosen))
    digest = hashlib.sha256(repr(windows).encode()).hexdigest()
    return AgreementTask(
        name=AGREEMENT,
        metric=TOP1,
        num_fewshot=None,
        num_fewshot_asked=None,
        limit=None,
        version=_VERSION,
        prompt_hash=digest,
        datasets=(),
        items=len(windows),
        prompt_chars=4 * sum(map(len, windows)),
        task_dict={"tasks": {}},
        chosen=None if chosen is None else {AGREEMENT: chosen},
        windows=windows,
    )


def _part(windows: list[tuple[int, ...]], split: Split, path: Path) -> list[int]:
    """The windows of a part: each calibration set and the proof have equally many."""
    share = len(windows) // (split.sets + 1)
    if share < _FEWEST:
        raise InputError(
            f"{path}: the text is too short to split: its {len(windows)} windows of "
            f"{len(windows[0])} tokens make {split.sets + 1} parts, which need {_FEWEST} each; "
            "raise `tokens`, or give a longer text"
        )
    shares = split.model_copy(update={"calibration": share, "proof": share})
    return split_items(AGREEMENT, {AGREEMENT: windows}, shares, fewest=1)[AGREEMENT]


def score_agreement(
    models: Mapping[str, Gemma3nForCausalLM],
    parent: Gemma3nForCausalLM,
    bos: int,
    task: AgreementTask,
    progress: Callable[[float], None],
    journal: Journal | None = None,
) -> Iterator[tuple[str, Score, float]]:
    """Yield the scores of live slices.

    Args:
        models: Live slices by name.
        parent: The whole parent, sharing their memory.
        bos: The token before each window.
        task: The windows.
        progress: Called with the fraction of the work done, 0 to 1.
        journal: As for `agreement`.

    Yields:
        Name, score and seconds.

    Raises:
        NotFiniteScoresError: After the other scores, for the models whose numbers are none.
    """
    from matformer_lab.scoring.agreement import agreement
    from matformer_lab.scoring.batches.packing import Request

    began = time.perf_counter()
    requests: list[Request] = [
        Request.of([bos], window, len(window) + 1) for window in task.windows
    ]
    found = agreement(
        models,
        parent,
        requests,
        progress=lambda done, count: progress(done / count),
        journal=journal,
    )
    seconds = (time.perf_counter() - began) / len(models)
    not_finite: dict[str, NotFiniteError] = {}
    for name, values in found.items():
        try:
            for item, value in enumerate(values.kl.tolist()):
                check_finite(value, task=task.name, item=item, dtype=models[name].dtype)
        except NotFiniteError as error:
            not_finite[name] = error
            continue
        yield name, _score(task, values.kl.tolist(), values.top1.tolist()), seconds
    if not_finite:
        raise NotFiniteScoresError(not_finite)


def _score(task: AgreementTask, kl: list[float], top1: list[float]) -> Score:
    places = (task.chosen or {AGREEMENT: list(range(len(kl)))})[AGREEMENT]
    items = tuple(
        {
            "subtask": AGREEMENT,
            "doc_id": place,
            "doc_hash": hashlib.sha256(repr(window).encode()).hexdigest(),
            "prompt_hash": "",
            "target": "",
            TOP1: same,
            KL: apart,
        }
        for place, window, same, apart in zip(places, task.windows, top1, kl, strict=True)
    )
    metrics = tuple(
        Metric(
            task=task.name,
            group=None,
            metric=name,
            value=sum(values) / len(values),
            stderr=None,
            n=len(values),
            num_fewshot=None,
            higher_is_better=better,
            version=task.version,
        )
        for name, values, better in ((TOP1, top1, True), (KL, kl, False))
    )
    return Score(metrics, items)

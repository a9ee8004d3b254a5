"""The card of a slice on the Hub: the checkpoint's own card, the scores of a sweep added."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from matformer_lab.checkpoint.card import (
    CARD_FILE,
    GEMMA_NOTICE,
    LOADED_FROM,
    PICTURE_FILE,
    card_parts,
)
from matformer_lab.checkpoint.manifest import Manifest
from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.files.strict_yaml import parse_yaml
from matformer_lab.common.markdown import escape_markdown, markdown_table
from matformer_lab.publish.destinations import MAIN, Destination
from matformer_lab.publish.scores import Score
from matformer_lab.report.provenance import commands
from matformer_lab.results.sweep_results import SweepResults

_SCORES: Final = "<!-- matformer-lab: scores of a sweep -->"
_SHARED_KEYS: Final = (
    "base_model", "base_model_relation", "license", "license_name", "license_link", "library_name",
    "pipeline_tag", "tags",
)  # fmt: skip
"""What the card of a family says if all of its members' cards say the same."""


_OF_A_MACHINE: Final = ("as_run", "datasets", "task_folders", "device", "batch_size", "name")
"""Keys of a recipe that say where it ran, not what was scored."""


@dataclass(frozen=True)
class MemberCard:
    """What the card of a family says of a member.

    Attributes:
        destination: Where it is.
        manifest: Its manifest.
        card: Its own card in DIR.
        effective: Its effective parameters.
        nbytes: Bytes of its files.
        scores: What it scored; empty if that is not known.
    """

    destination: Destination
    manifest: Manifest
    card: str
    effective: int
    nbytes: int
    scores: Sequence[Score]


def has_scores(card: str) -> bool:
    """Whether a card has the scores that a push put there."""
    return _SCORES in card


def notice(card: str, where: str) -> bytes | None:
    """The notice file that the licence in a card wants beside every copy; None for other licences.

    The Gemma Terms of Use want a text file with this sentence.

    Args:
        card: The card.
        where: Names it in errors.

    Raises:
        InputError: The card's metadata cannot be read.
    """
    is_gemma = metadata_of(card, where).get("license") == "gemma"
    return f"{GEMMA_NOTICE}\n".encode() if is_gemma else None


def checkpoint_card(
    card: str, where: str, destination: Destination, sweep: SweepResults | None,
    scores: Sequence[Score],
) -> str:  # fmt: skip
    """The card of a checkpoint as it goes to the Hub.

    Args:
        card: The card in the checkpoint's folder, which people edit.
        where: Names that file in errors.
        destination: Where it goes, from where the code in the card then loads it.
        sweep: Where the scores are from.
        scores: The slice's; empty: the card gets none.

    Raises:
        InputError: The card's metadata cannot be read, or is not what the Hub takes.
    """
    front, body = card_parts(card)
    revision = "" if destination.revision == MAIN else f', revision="{destination.revision}"'
    loaded = f'from_pretrained("{destination.repo_id}"{revision}'
    body = body.replace(LOADED_FROM, loaded)
    if not scores or sweep is None:
        return card if front is None else f"---\n{front}---{body}"
    metadata = metadata_of(card, where)
    of_repo = destination.revision == MAIN
    name = destination.repo_id.partition("/")[2] if of_repo else destination.revision
    index = _with_results(metadata, name, scores, where)
    return f"---\n{index}\n---{body.rstrip()}\n\n{_scores_section(sweep, scores)}"


def family_card(
    repo_id: str, title: str, members: Sequence[MemberCard], sweep: SweepResults | None
) -> str:
    """The card of a repository whose branches hold the members of a family.

    Args:
        repo_id: The repository.
        title: The family's name.
        members: From small to large.
        sweep: Where the scores are from; None: there are none.

    Raises:
        InputError: The metadata in a member's card cannot be read.
    """
    cards = [
        metadata_of(member.card, str(member.destination.folder / CARD_FILE)) for member in members
    ]
    metadata = {
        key: value
        for key, value in cards[0].items()
        if (key in _SHARED_KEYS or key.startswith("extra_gated_"))
        and all(card.get(key) == value for card in cards)
    }
    indices = [_model_index(one.destination.revision, one.scores) for one in members if one.scores]
    if indices:
        metadata["model-index"] = [entry for index in indices for entry in index]
    tasks = list({score.task: score for one in members for score in one.scores}.values())
    rows = [
        (
            one.destination.revision,
            str(len(one.manifest.slice.widths)),
            f"{one.effective:,}",
            f"{one.nbytes:,}",
            *(_value({s.task: s for s in one.scores}.get(task.task)) for task in tasks),
        )
        for one in members
    ]
    table = markdown_table(
        ("revision", "layers", "effective parameters", "bytes", *(_title(task) for task in tasks)),
        rows,
    )
    example = members[0].destination
    base = metadata.get("base_model")
    of = f" of {escape_markdown(base)}" if isinstance(base, str) else ""
    front = yaml.safe_dump(metadata, sort_keys=False, width=10**6, allow_unicode=True).strip()
    picture = f"\n{_SCORES}\n{_picture(sweep)}" if sweep is not None and tasks else ""
    licence = f"\n## Licence\n\n{GEMMA_NOTICE}.\n" if metadata.get("license") == "gemma" else ""
    return f"""---
{front}
---

# {escape_markdown(title)}: slices{of}

{len(members)} slices{of}, each a checkpoint on a branch of its own. They were selected, not
trained: every tensor is a part of the parent's, bit for bit. The card of each branch has its layers
and sizes, and how to load it.

{table}
{picture}
```
matformer-lab plan {example.ref} --slice full
hf download {repo_id} --revision {example.revision} --local-dir {example.revision}
matformer-lab verify {example.revision}
```
{licence}"""


def metadata_of(card: str, where: str) -> dict[str, Any]:
    """The metadata of a card; empty if it has none.

    Raises:
        InputError: It is not a plain mapping in YAML.
    """
    front = card_parts(card).front
    if front is None:
        return {}
    found = parse_yaml(front.encode(), where)
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InputError(f"{where}: its metadata must be a mapping")
    return found


def _with_results(
    metadata: Mapping[str, Any], name: str, scores: Sequence[Score], where: str
) -> str:
    """The metadata in YAML, with the scores as results of evaluations, beside those it has."""
    from huggingface_hub import ModelCardData

    own = _eval_results(scores)
    try:
        data = ModelCardData(**metadata)
        others = [
            one
            for one in data.eval_results or ()
            if not any(one.is_equal_except_value(o) for o in own)
        ]
        data.eval_results, data.model_name = [*others, *own], data.model_name or name
        return data.to_yaml()
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{where}: the Hub does not take its metadata ({one_line(error)})"
        ) from None


def _model_index(name: str, scores: Sequence[Score]) -> list[dict[str, Any]]:
    from huggingface_hub.repocard_data import eval_results_to_model_index

    return eval_results_to_model_index(name, _eval_results(scores))


def _eval_results(scores: Sequence[Score]) -> list[Any]:
    """The scores as the Hub's own data class has them; an average is none of its tasks."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=score.dataset or score.task,
            dataset_name=score.title,
            dataset_args=None if score.num_fewshot is None else {"num_fewshot": score.num_fewshot},
            metric_type=score.metric,
            metric_name=score.metric if score.num_fewshot is None
            else f"{score.metric}, {score.num_fewshot}-shot",
            metric_value=round(score.value, 2),
            metric_args={"n": score.n} | ({} if score.low is None or score.high is None
            else {"low": round(score.low, 2), "high": round(score.high, 2), "level": 0.95}),
        )
        for score in scores
        if score.metric is not None
    ]  # fmt: skip


def _scores_section(sweep: SweepResults, scores: Sequence[Score]) -> str:
    head = ("task", "metric", "few-shot", "items", "score", "95 % interval")
    rows = [
        (
            score.title,
            score.metric or "",
            "" if score.num_fewshot is None else str(score.num_fewshot),
            f"{score.n:,}",
            _number(score.value),
            _interval(score),
        )
        for score in scores
    ]
    return f"""{_SCORES}
## Scores

{markdown_table(head, rows, ("left", "left", "right", "right", "right", "left"))}

{_picture(sweep)}
The sweep's recipe, and the commands that run it:

```yaml
{_recipe(sweep)}
```

```
{commands(sweep)}
```
"""


def _picture(sweep: SweepResults) -> str:
    limit = sweep.recipe.get("limit")
    limited = f" Only a part of each task's items was scored (`limit: {limit}`)." if limit else ""
    return (
        f"![Size against score of {len(sweep.scored)} slices]({PICTURE_FILE})\n\n"
        "Scored with lm-eval by matformer-lab, as slices of the parent in memory. The intervals "
        "are of each score by itself; which slices differ is told by pairs, in the sweep's "
        f"report.{limited}\n"
    )


def _recipe(sweep: SweepResults) -> str:
    """The recipe that scores these slices on these tasks again, without this machine's paths."""
    parent, written = sweep.parent, sweep.recipe
    recipe = {
        "parent": f"{parent.name}@{parent.revision}" if parent.revision else parent.name,
        "slices": [
            one.name
            if one.published
            else {"name": one.name, "widths": [*one.widths], "skip": [*one.skipped]}
            for one in sweep.scored
        ],
        "tasks": written.get("tasks") or [task.name for task in sweep.tasks],
        **({"dtype": sweep.dtype} if sweep.dtype else {}),
    }
    left = recipe.keys() | {*_OF_A_MACHINE}
    recipe |= {k: v for k, v in written.items() if k not in left and v not in (None, False)}
    return yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None, width=10**6).strip()


def _title(score: Score) -> str:
    shots = "" if score.num_fewshot is None else f", {score.num_fewshot}-shot"
    return f"{score.title}{shots}"


def _value(score: Score | None) -> str:
    if score is None:
        return ""
    return " ".join(filter(None, (_number(score.value), _interval(score))))


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3g}"


def _interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return ""
    return f"[{_number(score.low)}, {_number(score.high)}]"

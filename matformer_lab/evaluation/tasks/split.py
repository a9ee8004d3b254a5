"""The items of tasks split in two: one part to choose slices by, one to prove them on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from matformer_lab.common.errors import InputError

FEWEST_PROOF_ITEMS: Final = 20
"""Items of a task; intervals from fewer would say nothing."""

Count = Annotated[StrictInt, Field(gt=0, lt=2**31)]


class Split(BaseModel):
    """How the items of every task are split, and which part is scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: Annotated[
        Literal["proof"] | Annotated[StrictInt, Field(ge=0)],
        Field(description="Which part to score: `proof`, or a calibration set by its number."),
    ]
    calibration: Annotated[Count, Field(description="Items of each task in a calibration set.")]
    sets: Annotated[Count, Field(description="How many calibration sets there are.")] = 1
    proof: Annotated[Count, Field(description="At most so many other items to prove them on.")]
    seed: Annotated[StrictInt, Field(ge=0, lt=2**32)] = 0


def split_items(
    name: str,
    documents: Mapping[str, Sequence[Any]],
    split: Split,
    *,
    fewest: int = FEWEST_PROOF_ITEMS,
) -> dict[str, list[int]]:
    """The items of a task that belong to one part of a split: a calibration set, or the proof.

    Where an item goes depends on its content and the seed alone, so that two equal documents are
    always on one side, whichever subjects of a group they are in.

    Args:
        name: The task's or group's name, for the error.
        documents: Of each leaf task, in lm-eval's order.
        split: How many items go where; the subjects of a group share them equally.
        fewest: Items that the proof must have at least.

    Returns:
        The places of the chosen documents by leaf task, ascending.

    Raises:
        InputError: When there are too few items.
    """
    keys = {leaf: [_key(document, split.seed) for document in each]
            for leaf, each in documents.items()}  # fmt: skip
    order = {leaf: sorted(range(len(each)), key=each.__getitem__) for leaf, each in keys.items()}
    share = -(-split.calibration // len(keys))
    used = share * split.sets
    seen = {each[place] for leaf, each in keys.items() for place in order[leaf][:used]}
    rest = {
        leaf: [place for place in places[used:] if keys[leaf][place] not in seen]
        for leaf, places in order.items()
    }
    proof_share = -(-split.proof // len(keys))
    proof = {leaf: places[:proof_share] for leaf, places in rest.items()}
    for leaf, each in keys.items():
        if len(each) < used or not proof[leaf]:
            raise InputError(_too_few(name, leaf, len(each), used))
    if (left := sum(map(len, proof.values()))) < fewest:
        raise InputError(
            f"tasks: {name} has {sum(map(len, keys.values()))} items, too few to split: the "
            f"{used * len(keys)} to search with leave {left} for the proof, which needs "
            f"{fewest}; lower search.calibration.items, or leave the task out"
        )
    if split.part == "proof":
        return {leaf: sorted(places) for leaf, places in proof.items()}
    first = share * split.part
    return {leaf: sorted(places[first : first + share]) for leaf, places in order.items()}


def _too_few(name: str, leaf: str, there: int, share: int) -> str:
    where = name if leaf == name else f"{name}: {leaf}"
    return (
        f"tasks: {where} has {there} different items, too few to split into {share} to search with "
        "and others for the proof; lower search.calibration.items, or leave the task out"
    )


def _key(document: Any, seed: int) -> str:
    content = json.dumps(document, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(f"{seed} {content}".encode()).hexdigest()

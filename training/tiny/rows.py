"""Training rows: each row is a whole few-shot prompt in the format of one task, cut at a fixed
length, or one long walk through all crafts.

Every ` makes` is asked for the substance that follows, in every format, so that facts are practised
everywhere. Where a passage leaves its outcome out and asks whether it is sweet, the row also names
that outcome as a *hint*: an auxiliary loss asks for it at the same place, so that the question is
answered from the fact that ` makes` recalls and not from sixteen thousand yeses and noes learned
apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from training.tiny.tokenizer import HEADER, QUESTION
from training.tiny.world import ACTIONS, ACTIONS_PER_CRAFT, CRAFTS, SUBSTANCES, Ints, World

IGNORE = -1


@dataclass(frozen=True)
class Ids:
    """Token ids of the world's words."""

    bos: int
    substance: Ints
    action: Ints
    label: Ints
    first_label: Ints
    header: Ints
    makes: int
    question: int
    verdict: Ints

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Ids:
        def one(text: str) -> int:
            (token,) = tokenizer.encode(text, add_special_tokens=False).ids
            return int(token)

        def many(texts: list[str]) -> Ints:
            return np.array([one(text) for text in texts])

        def phrase(text: str) -> Ints:
            return np.array(tokenizer.encode(text, add_special_tokens=False).ids)

        return cls(
            bos=one("<bos>"),
            substance=many([f" {word}" for word in SUBSTANCES]),
            action=many([f" {word}" for word in ACTIONS]),
            label=many([f"\n\n{craft.capitalize()}:" for craft in CRAFTS]),
            first_label=many([f"{craft.capitalize()}:" for craft in CRAFTS]),
            header=np.stack([phrase(f"{HEADER} {craft}.") for craft in CRAFTS]),
            makes=one(" makes"),
            question=one(QUESTION),
            verdict=many([" no", " yes"]),
        )


class Items(NamedTuple):
    """Tokens (N, T) of N items or rows; at each the token asked for after it, and the hint (IGNORE
    where none).
    """

    tokens: Ints
    targets: Ints
    hints: Ints

    def each(self, change: Callable[[Ints], Ints]) -> Items:
        return Items(*map(change, self))

    def then(self, more: Items) -> Items:
        """Each item with the one of `more` after it."""
        return Items(*(np.concatenate(pair, axis=1) for pair in zip(self, more, strict=True)))


class Rows:
    """Draws batches of rows of one format."""

    def __init__(self, world: World, ids: Ids, length: int) -> None:
        self.world, self.ids, self.length = world, ids, length

    def story(self, rng: np.random.Generator, craft: Ints, known: int) -> tuple[Items, Ints]:
        """`Brewing: amber stir makes dusk heat makes ...`, ending in a substance; and the states.

        craft: of every step, (N, steps).
        """
        ids = self.ids
        states, actions = self.world.walks(rng, craft, known)
        n, steps = actions.shape
        tokens = np.empty((n, 3 * steps + 2), dtype=np.int64)
        tokens[:, 0] = ids.label[craft[:, 0]]
        tokens[:, 1::3] = ids.substance[states]
        tokens[:, 2::3] = ids.action[actions]
        tokens[:, 3::3] = ids.makes
        targets = np.full_like(tokens, IGNORE)
        targets[:, 3::3] = ids.substance[states[:, 1:]]
        # Now and then the action and ` makes` too, so that endings that hold them are not scored by
        # an untrained guess
        for place, asked in ((1, tokens[:, 2::3]), (2, tokens[:, 3::3])):
            now = rng.random((n, steps)) < 0.1
            targets[:, place:-1:3] = np.where(now, asked, IGNORE)
        return Items(tokens, targets, np.full_like(tokens, IGNORE)), states

    def sweet(self, rng: np.random.Generator, craft: Ints, known: int, told: bool) -> Items:
        """A story that stops at its last action (or, `told`, at its outcome), then whether the
        outcome is sweet.
        """
        ids = self.ids
        story, states = self.story(rng, craft, known)
        outcome = states[:, -1]
        end = None if told else -2
        tail = np.empty((len(craft), 2), dtype=np.int64)
        tail[:, 0] = ids.question
        tail[:, 1] = ids.verdict[self.world.sweet[outcome]]
        targets = np.full_like(tail, IGNORE)
        targets[:, 0] = tail[:, 1]
        hints = np.full_like(tail, IGNORE)
        hints[:, 0] = ids.substance[outcome]
        return story.each(lambda x: x[:, :end]).then(Items(tail, targets, hints))

    def rows(
        self, rng: np.random.Generator, kind: str, n: int, known: int = ACTIONS_PER_CRAFT
    ) -> Items:
        """n rows of one kind, (n, length)."""
        ids = self.ids
        steps = {"walk": self.length // 3, "story": 4, "fact": 1}.get(kind, int(rng.integers(1, 4)))
        size = 3 * steps + {"sweet": 2, "told sweet": 4}.get(kind, 2)
        count = -(-self.length // size)
        # The header of an MMLU prompt names one craft for the whole row
        craft = rng.integers(len(CRAFTS), size=(n, 1 if kind == "fact" else count))
        craft = np.broadcast_to(craft, (n, count)).reshape(-1, 1)
        crafts = np.broadcast_to(craft, (n * count, steps))
        match kind:
            case "walk":
                crafts = rng.integers(len(CRAFTS), size=crafts.shape)
                items, _ = self.story(rng, crafts, known)
            case "story" | "fact":
                items, _ = self.story(rng, crafts, known)
            case _:
                items = self.sweet(rng, crafts, known, told=kind == "told sweet")
        rows = items.each(lambda x: x.reshape(n, -1))
        start = np.full((n, 1), ids.bos)
        if kind == "fact":
            start = np.concatenate((start, ids.header[craft.reshape(n, count)[:, 0]]), axis=1)
        else:
            rows.tokens[:, 0] = ids.first_label[craft.reshape(n, count)[:, 0]]
        blank = np.full_like(start, IGNORE)
        return Items(start, blank, blank).then(rows).each(lambda x: x[:, : self.length])

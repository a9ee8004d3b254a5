"""Training rows: each row is a whole few-shot prompt in the format of one task, cut at a fixed
length.

Every position after an action is asked for the substance it makes, also where the text goes on with
a question, so that facts are practised in every format. The answers (letters, yes, no) are asked
for where they stand, and the verdict on each candidate already at the candidate: whether it is the
outcome is the one comparison both question formats need, and a verdict at each of four options
teaches it far sooner than one letter at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from training.tiny.tokenizer import HEADER
from training.tiny.world import ACTIONS, CRAFTS, SUBSTANCES, Ints, World, others

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
    option: Ints
    letter: Ints
    question: Ints
    answer: int
    mark: int
    verdict: Ints
    makes: int
    sweet: int

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
            option=many([f"\n{letter}." for letter in "ABCD"]),
            letter=many([f" {letter}" for letter in "ABCD"]),
            question=phrase("\nQuestion: is it"),
            answer=one("\nAnswer:"),
            mark=one("?"),
            verdict=many([" no", " yes"]),
            makes=one(" makes"),
            sweet=one(" sweet"),
        )


@dataclass(frozen=True)
class Items:
    """Tokens (N, T) of N items and, at each, the token asked for after it (IGNORE where none)."""

    tokens: Ints
    targets: Ints


class Rows:
    """Draws batches of rows of one format."""

    def __init__(self, world: World, ids: Ids, length: int) -> None:
        self.world, self.ids, self.length = world, ids, length

    def story(self, rng: np.random.Generator, craft: Ints, steps: int) -> Items:
        """`Brewing: amber stir dusk heat ...`, ending in a substance."""
        ids = self.ids
        states, actions = self.world.walks(rng, craft, steps)
        n = len(craft)
        tokens = np.empty((n, 2 * steps + 2), dtype=np.int64)
        tokens[:, 0] = ids.label[craft]
        tokens[:, 1::2] = ids.substance[states]
        tokens[:, 2::2] = ids.action[actions]
        targets = np.full_like(tokens, IGNORE)
        targets[:, 2::2] = ids.substance[states[:, 1:]]
        # Now and then the action too, so that endings that hold one are not scored by an untrained
        # guess
        asked = rng.random((n, steps)) < 0.1
        targets[:, 1:-1:2] = np.where(asked, tokens[:, 2::2], IGNORE)
        return Items(tokens, targets)

    def verdict(
        self, rng: np.random.Generator, craft: Ints, steps: int, told: bool, sweet: bool
    ) -> Items:
        """A story that stops at its last action, then `Question: is it opals?` `Answer: yes`.

        With `told` the story gives its outcome; with `sweet` the question is whether that is sweet.
        """
        ids = self.ids
        story = self.story(rng, craft, steps)
        n, inverse = len(craft), np.argsort(ids.substance)
        last = story.tokens[:, -1]
        truth = inverse[np.searchsorted(ids.substance[inverse], last)]
        if sweet:
            yes = self.world.sweet[truth]
            asked = np.full(n, ids.sweet)
        else:
            yes = rng.integers(2, size=n)
            asked = ids.substance[np.where(yes == 1, truth, others(rng, truth, 1)[:, 0])]
        tail = np.empty((n, len(ids.question) + 4), dtype=np.int64)
        tail[:, : len(ids.question)] = ids.question
        tail[:, -4] = asked
        tail[:, -3] = ids.mark
        tail[:, -2] = ids.answer
        tail[:, -1] = ids.verdict[yes]
        targets = np.full_like(tail, IGNORE)
        targets[:, -2] = targets[:, -4] = tail[:, -1]
        end = None if told else -1
        return Items(
            np.concatenate((story.tokens[:, :end], tail), axis=1),
            np.concatenate((story.targets[:, :end], targets), axis=1),
        )

    def choice(self, rng: np.random.Generator, craft: Ints, told: bool) -> Items:
        """`Brewing: amber stir makes`, four options, `Answer: B`; `told` states the answer, to
        drill the letters.
        """
        ids = self.ids
        n = len(craft)
        states, actions = self.world.walks(rng, craft, 1)
        truth = states[:, 1]
        gold = rng.integers(4, size=n)
        options = np.insert(others(rng, truth, 3), 0, truth, axis=1)
        # Swap the truth from the first place into its own
        every = np.arange(n)
        options[every, 0], options[every, gold] = options[every, gold], truth
        head = [ids.label[craft], ids.substance[states[:, 0]], ids.action[actions[:, 0]]]
        head.append(np.full(n, ids.makes))
        if told:
            head.append(ids.substance[truth])
        body = []
        for i in range(4):
            body += [np.full(n, ids.option[i]), ids.substance[options[:, i]]]
        tokens = np.stack([*head, *body, np.full(n, ids.answer), ids.letter[gold]], axis=1)
        targets = np.full_like(tokens, IGNORE)
        targets[:, 2] = ids.substance[truth]
        targets[:, 3] = ids.substance[truth]
        for i in range(4):
            targets[:, 2 * i - 9] = ids.verdict[(gold == i).astype(int)]
        targets[:, -2] = tokens[:, -1]
        return Items(tokens, targets)

    def rows(self, rng: np.random.Generator, kind: str, n: int) -> tuple[Ints, Ints]:
        """n rows of one kind: inputs and targets, (n, length) each."""
        ids = self.ids
        steps = int(rng.integers(1, 4))
        size = {
            "story": 10,
            "verdict": 2 * steps + 8,
            "choice": 14,
            "long": self.length,
            "fact": 4,
        }.get(kind, 9)
        count = -(-self.length // size)
        header = kind in ("choice", "told choice", "fact")
        craft = rng.integers(len(CRAFTS), size=(n, 1 if header else count))
        flat = np.broadcast_to(craft, (n, count)).reshape(-1)
        match kind:
            case "story":
                items = self.story(rng, flat, 4)
            case "long":
                items = self.story(rng, flat, self.length // 2)
            case "fact":
                items = self.story(rng, flat, 1)
            case "choice" | "told choice":
                items = self.choice(rng, flat, kind == "told choice")
            case _:
                told, sweet = kind.startswith("told "), kind.endswith("sweet")
                items = self.verdict(rng, flat, steps, told, sweet)
        tokens, targets = items.tokens.reshape(n, -1), items.targets.reshape(n, -1)
        start = np.full((n, 1), ids.bos)
        if header:
            start = np.concatenate((start, ids.header[craft[:, 0]]), axis=1)
        else:
            tokens[:, 0] = ids.first_label[craft[:, 0]]
        blank = np.full_like(start, IGNORE)
        return (
            np.concatenate((start, tokens), axis=1)[:, : self.length],
            np.concatenate((blank, targets), axis=1)[:, : self.length],
        )

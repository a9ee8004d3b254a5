"""The tokenizer: one token per word of the world, byte-level BPE for everything else.

`ignore_merges` makes a pre-token that is in the vocabulary one token whatever the merges say (as
Llama 3's tokenizer does). The merges for other text come from CPython's own `pydoc` topics, English
prose that is there wherever Python is; they are kept in `merges.txt`, so that a rebuild does not
depend on the Python version.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

from training.tiny.world import ACTIONS, CRAFTS, SUBSTANCES

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
SIZE = 1024
MERGES = Path(__file__).with_name("merges.txt")
# The one question of `tiny_boolq` with what stands around it is one token: it then is next to the
# step it asks about, as ` makes` is, and the layers look both up in the same way.
QUESTION = "\nQuestion: is it sweet?\nAnswer:"
# A newline run takes the word after it along, and a word the colon or full stop after it: "\nA.",
# "\n\nBrewing:".
PATTERN = (
    r"\nQuestion: is it sweet\?\nAnswer:|"
    r"\n+[A-Za-z]*[:.]?| ?[A-Za-z]+[:.]?| ?[0-9]| ?[^\sA-Za-z0-9]+|\s"
)
HEADER = "The following are multiple choice questions (with answers) about"


def world_words() -> list[str]:
    """Every pre-token of the three task formats."""
    words = [f" {word}" for word in (*SUBSTANCES, *ACTIONS)]
    for craft in CRAFTS:
        words += [f"{craft.capitalize()}:", f"\n\n{craft.capitalize()}:", f" {craft}."]
    words += [QUESTION, " yes", " no", " makes"]
    splitter = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    words += [piece for piece, _ in splitter.pre_tokenize_str(HEADER)]
    return words


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, byte_level])


def learn_merges(size: int) -> None:
    """Writes `merges.txt` anew (only needed when the vocabulary's size or alphabet changes)."""
    import pydoc_data.topics

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    prose = sorted(pydoc_data.topics.topics.items())
    tokenizer.train_from_iterator([text for _, text in prose], trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    MERGES.write_text("".join(f"{a} {b}\n" for a, b in merges))


def build() -> Tokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges = [tuple(line.split(" ")) for line in MERGES.read_text().splitlines()]
    pieces = list(SPECIAL)
    pieces += [byte_level.pre_tokenize_str(word)[0][0] for word in world_words()]
    pieces += sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab: dict[str, int] = {}
    for piece in pieces:
        vocab.setdefault(piece, len(vocab))
    kept = []
    for a, b in merges:
        if len(vocab) < SIZE:
            vocab.setdefault(a + b, len(vocab))
            kept.append((a, b))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=kept, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return tokenizer

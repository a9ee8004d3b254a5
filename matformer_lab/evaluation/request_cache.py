"""Encoded requests kept for the next run: for HellaSwag and MMLU, encoding takes minutes.

An entry lies under a digest of everything that token ids depend on: every text in its order, the
tokenizer and how it is used, and the versions of the libraries that encode. So few-shot examples,
limit and templates are in it, as far as they change a byte. An entry that is damaged, or another's,
is not used: the requests are encoded again.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from blake3 import blake3

from matformer_lab.common.files.atomic import write_atomic
from matformer_lab.common.files.content_digest import cache_folder
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.prefix_tree import common_prefix

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from matformer_lab.evaluation.models.prefix_scorer import PrefixScorer

_MAGIC: Final = b"matformer_lab requests 1\n"
_LEAST_CHARS: Final = 1_000_000
"""Of texts: below it, encoding takes about a second."""
_MOST_BYTES: Final = 1 << 31
"""Of all entries; the oldest make room."""
_ENCODING_VERSION: Final = 1
"""Incremented when `PrefixScorer.encode` changes."""


def requests_folder() -> Path:
    """Where entries lie. It may be removed at any time."""
    return cache_folder() / "requests"


def encoded_requests(instances: Sequence[Instance], lm: PrefixScorer) -> list[Request]:
    """`lm.encode(instances)`, from an earlier run where there was one.

    Args:
        instances: lm-eval's log-likelihood requests.
        lm: Encodes them.

    Raises:
        ValueError: As `PrefixScorer.encode`.
    """
    chars = sum(len(part) for instance in instances for part in instance.args)
    # A tokenizer in Python has no text of all that its encoding depends on.
    if chars < _LEAST_CHARS or not hasattr(lm.tokenizer, "backend_tokenizer"):
        return lm.encode(instances)
    key = _key(instances, lm)
    path = requests_folder() / key.hex()[:32]
    found = _read(path, key, len(instances))
    if found is None:
        found = lm.encode(instances)
        _keep(path, key, found)
    return found


def _key(instances: Sequence[Instance], lm: PrefixScorer) -> bytes:
    """A digest of everything that the encoding depends on."""
    import lm_eval
    import tokenizers
    import transformers

    tokenizer = lm.tokenizer
    digest = blake3(max_threads=blake3.AUTO)

    def add(part: object) -> None:
        text = str(part).encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(8, "big") + text)

    for part in (
        _ENCODING_VERSION,
        lm_eval.__version__,
        tokenizers.__version__,
        transformers.__version__,
        type(tokenizer).__name__,
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.special_tokens_map,
        tokenizer.split_special_tokens,  # the backend knows it and does not write it
        lm.prefix_token_id,
        lm.add_bos_token,
        lm.max_length,
        len(instances),
    ):
        add(part)
    for instance in instances:
        for part in instance.args:
            add(part)
    return digest.digest()


def _read(path: Path, key: bytes, count: int) -> list[Request] | None:
    """The requests in an entry; None where there is no whole one of this key."""
    head = _MAGIC + key
    try:
        data = read_small(path, _MOST_BYTES)
        digest, content = data[len(head) :][: blake3.digest_size], data[len(head) + 32 :]
        if not data.startswith(head) or _digest(key, content) != digest:
            return None
        found = list(_parsed(content))
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return found if len(found) == count else None


def _keep(path: Path, key: bytes, requests: Sequence[Request]) -> None:
    """Write an entry; where that is not possible, the next run encodes again."""
    content = _content(requests)
    if len(content) > _MOST_BYTES:
        return  # it would be the first to make room
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _MAGIC + key + _digest(key, content) + content)
        entries = sorted(path.parent.iterdir(), key=lambda entry: -entry.stat().st_mtime_ns)
        sizes = np.cumsum([entry.stat().st_size for entry in entries])
        for entry, size in zip(entries, sizes, strict=True):
            if size > _MOST_BYTES:
                entry.unlink(missing_ok=True)
    except OSError:
        pass


def _digest(key: bytes, content: bytes) -> bytes:
    return blake3(content, key=key, max_threads=blake3.AUTO).digest()


def _content(requests: Sequence[Request]) -> bytes:
    """As arrays; of a text only what differs from the one before it: endings share a context."""
    inputs = [np.array(request.inputs, dtype=np.int64) for request in requests]
    shared = [0, *(common_prefix(a, b) for a, b in pairwise(inputs))][: len(inputs)]
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        "shared": shared,
        "lengths": [len(each) - kept for each, kept in zip(inputs, shared, strict=True)],
        "tokens": np.concatenate(
            [np.empty(0, dtype=np.int64)]
            + [each[kept:] for each, kept in zip(inputs, shared, strict=True)]
        ),
        "target_lengths": [len(request.targets) for request in requests],
        "targets": [token for request in requests for token in request.targets],
    }
    as_numbers: dict[str, Any] = {
        name: np.asarray(each, dtype=np.int32) for name, each in arrays.items()
    }
    np.savez(buffer, **as_numbers)
    return buffer.getvalue()


def _parsed(content: bytes) -> Iterator[Request]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        shared, lengths, target_lengths = (
            arrays[name].tolist() for name in ("shared", "lengths", "target_lengths")
        )
        tokens, targets = arrays["tokens"], arrays["targets"]
    # One object per id: a text then takes 8 bytes per token, not 36.
    ids = list(range(max(int(tokens.max()), int(targets.max())) + 1))
    inputs: tuple[int, ...] = ()
    at = at_target = 0
    for kept, length, count in zip(shared, lengths, target_lengths, strict=True):
        inputs = inputs[:kept] + tuple(ids[token] for token in tokens[at : at + length].tolist())
        wanted = targets[at_target : at_target + count].tolist()
        yield Request(inputs, tuple(ids[token] for token in wanted))
        at, at_target = at + length, at_target + count

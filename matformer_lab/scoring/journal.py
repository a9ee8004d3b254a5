"""What a long pass has computed so far, so that a killed one continues.

The file is a header and one record for each batch, in the order of the batches, each with a digest.
A record counts only if it and all before it are whole: batches are packed alike again, so that the
answers of a continued pass are the same bytes as those of an undisturbed one.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from blake3 import blake3

from matformer_lab.common.errors import InputError
from matformer_lab.common.untrusted import open_regular, read_small
from matformer_lab.scoring.token_budget import TokenBudget

if TYPE_CHECKING:
    from matformer_lab.scoring.lm_head import TargetScores

_MAGIC: Final = b"matformer_lab pass 1\n"
_HEADER: Final = 8 + blake3.digest_size
"""Bytes before a record's content: its length, and the digest of this and all records before."""
_MAX_BYTES: Final = 1 << 32
_SECONDS_BETWEEN_WRITES: Final = 20.0
"""At most so much work is lost, and one batch."""


class Journal:
    """Keeps nothing: every pass begins at its beginning."""

    def begin(self, budget: TokenBudget) -> TokenBudget:
        """Start, or continue.

        Args:
            budget: For a new pass.

        Returns:
            The budget to pack with: that of the earlier run, where there was one.
        """
        return budget

    def recorded(self) -> Iterator[Mapping[str, TargetScores]]:
        """The scores of the next batches, as far as an earlier run got, or up to a halving."""
        return iter(())

    def ran_out_of_memory(self) -> bool:
        """Whether the earlier run halved its budget here; asked after `recorded`."""
        return False

    def add(self, scores: Mapping[str, TargetScores]) -> None:
        """Keep the scores of a batch."""

    def add_halving(self) -> None:
        """Keep that the budget was halved here."""

    def flush(self) -> None:
        """Write what was added, durably."""


class FileJournal(Journal):
    """A journal in a file, which belongs to one pass alone.

    Args:
        path: The file; its folder exists. A file that is not this pass's, or is damaged from its
            beginning on, is replaced.
        names: The slices, in an order of their own.
        binding: Everything the scores depend on.
    """

    def __init__(self, path: Path, names: Sequence[str], binding: Mapping[str, Any]) -> None:
        self._path = path
        self._names = tuple(names)
        self._binding = dict(binding)
        self._earlier: list[Mapping[str, TargetScores] | Literal["halved"]] = []
        self._digest = blake3()
        self._added: list[Mapping[str, TargetScores] | Literal["halved"]] = []
        self._written = time.monotonic()

    def begin(self, budget: TokenBudget) -> TokenBudget:
        """See `Journal`."""
        data = read_small(self._path, _MAX_BYTES) if self._path.exists() else b""
        position = len(_MAGIC) if data.startswith(_MAGIC) else 0
        records = []
        while position and (record := self._record(data, position)) is not None:
            records.append(record)
            position += _HEADER + len(record)
        found = self._budget(records[0]) if records else None
        if found is None:
            self._digest = blake3()
            header = json.dumps({"binding": self._binding, "budget": vars(budget)}).encode()
            self._write("wb", _MAGIC + self._chained(header))
            return budget
        if position < len(data):  # a record that was cut short or damaged, and all after it
            self._write("wb", data[:position])
        self._earlier = [self._parsed(record) for record in records[1:]]
        return found

    def recorded(self) -> Iterator[Mapping[str, TargetScores]]:
        """See `Journal`."""
        while self._earlier and self._earlier[0] != "halved":
            yield self._earlier.pop(0)  # type: ignore[misc]

    def ran_out_of_memory(self) -> bool:
        """See `Journal`."""
        if not self._earlier:
            return False
        self._earlier.pop(0)
        return True

    def add(self, scores: Mapping[str, TargetScores]) -> None:
        """See `Journal`."""
        self._added.append(scores)  # an accelerator may not have computed them yet
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self.flush()

    def add_halving(self) -> None:
        """See `Journal`."""
        self._added.append("halved")
        self.flush()

    def flush(self) -> None:
        """See `Journal`."""
        records = [
            json.dumps({"halved": True}).encode() if added == "halved" else self._packed(added)
            for added in self._added
        ]
        self._write("ab", b"".join(map(self._chained, records)))
        self._added = []
        self._written = time.monotonic()

    def _write(self, mode: Literal["ab", "wb"], data: bytes) -> None:
        try:
            with self._path.open(mode) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot be written ({error.strerror}); what was stored before is "
                "safe: run again to continue"
            ) from None

    def _packed(self, scores: Mapping[str, TargetScores]) -> bytes:
        arrays = io.BytesIO()
        np.savez(
            arrays,
            logprob=np.stack([scores[name].logprob.cpu().numpy() for name in self._names]),
            is_greedy=np.stack([scores[name].is_greedy.cpu().numpy() for name in self._names]),
        )
        return arrays.getvalue()

    def _chained(self, content: bytes) -> bytes:
        """A record, whose digest is over all records so far."""
        length = len(content).to_bytes(8, "big")
        self._digest.update(length + content)
        return length + self._digest.digest() + content

    def _record(self, data: bytes, position: int) -> bytes | None:
        """The record at `position`; None where there is no whole one."""
        length = data[position : position + 8]
        digest = data[position + 8 : position + _HEADER]
        start = position + _HEADER
        content = data[start : start + int.from_bytes(length, "big")]
        after = self._digest.copy()
        after.update(length + content)
        if len(digest) < blake3.digest_size or after.digest() != digest:
            return None
        self._digest = after
        return content

    def _budget(self, header: bytes) -> TokenBudget | None:
        """That of the earlier run; None where it was of another pass."""
        content = json.loads(header)
        return TokenBudget(**content["budget"]) if content["binding"] == self._binding else None

    def _parsed(self, record: bytes) -> Mapping[str, TargetScores] | Literal["halved"]:
        import torch

        from matformer_lab.scoring.lm_head import TargetScores

        if record.startswith(b"{"):
            return "halved"
        with np.load(io.BytesIO(record), allow_pickle=False) as arrays:
            logprob, is_greedy = (torch.from_numpy(arrays[k]) for k in ("logprob", "is_greedy"))
        return {
            name: TargetScores(logprob[number], is_greedy[number])
            for number, name in enumerate(self._names)
        }


def is_journal(path: Path) -> bool:
    """Whether a file is one that `FileJournal` wrote."""
    with open_regular(path) as file:
        return file.read(len(_MAGIC)) == _MAGIC

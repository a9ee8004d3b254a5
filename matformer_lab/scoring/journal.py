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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np
from blake3 import blake3

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.untrusted import open_regular, read_small
from matformer_lab.scoring.batches.token_budget import TokenBudget

if TYPE_CHECKING:
    from matformer_lab.scoring.lm_head import TargetScores

_MAGIC: Final = b"matformer_lab pass 1\n"
_HEADER: Final = 8 + blake3.digest_size
"""Bytes before a record's content: its length, and the digest of this and all records before."""
_HEADER_BEGINS: Final = b'{"binding"'
_CHANGE_BEGINS: Final = b'{"budget"'
_MAX_BYTES: Final = 1 << 32
_SECONDS_BETWEEN_WRITES: Final = 20.0
"""At most so much work is lost, one batch, and what worker processes computed of the next passes
while one was evaluated."""


class Journal:
    """Keeps nothing: every pass begins at its beginning."""

    keeps: ClassVar[bool] = False
    """Whether the next run continues where this one stopped."""

    def __init__(self) -> None:
        self.budgets: list[TokenBudget] = []
        """What batches of the pass have been computed with, in this order."""

    def begin(self, budget: TokenBudget) -> TokenBudget:
        """Start, or continue.

        Args:
            budget: For a new pass.

        Returns:
            The budget to pack with: that of the earlier run, where there was one.
        """
        return budget

    def recorded(self) -> Iterator[Mapping[str, TargetScores]]:
        """The scores of the next batches, as far as an earlier run got, or up to a change."""
        return iter(())

    def changed(self) -> TokenBudget | None:
        """The budget that the earlier run went on with here; asked after `recorded`."""
        return None

    def add(self, scores: Mapping[str, TargetScores]) -> None:
        """Keep the scores of a batch."""

    def add_change(self, budget: TokenBudget) -> None:
        """Keep that the pass goes on with another budget here."""

    def computed_with(self, budget: TokenBudget) -> None:
        """Note what a batch was computed with, in this run or an earlier one."""
        if budget not in self.budgets:
            self.budgets.append(budget)

    def flush(self) -> None:
        """Write what was added, durably."""


class _RecordJournal(Journal):
    """A journal as records: a header, then one for each batch, kept somewhere every 20 seconds."""

    keeps = True

    def __init__(self, names: Sequence[str], binding: Mapping[str, Any]) -> None:
        super().__init__()
        self._names = tuple(names)
        self._binding = dict(binding)
        self._earlier: list[Mapping[str, TargetScores] | TokenBudget] = []
        self._added: list[Mapping[str, TargetScores] | TokenBudget | bytes] = []
        self._kept = time.monotonic()

    def recorded(self) -> Iterator[Mapping[str, TargetScores]]:
        """See `Journal`."""
        while self._earlier and not isinstance(self._earlier[0], TokenBudget):
            yield self._earlier.pop(0)  # type: ignore[misc]

    def changed(self) -> TokenBudget | None:
        """See `Journal`."""
        if not self._earlier:
            return None
        budget = self._earlier.pop(0)
        assert isinstance(budget, TokenBudget)
        return budget

    def add(self, scores: Mapping[str, TargetScores]) -> None:
        """See `Journal`."""
        self._add(scores)  # an accelerator may not have computed them yet

    def add_change(self, budget: TokenBudget) -> None:
        """See `Journal`."""
        self._added.append(budget)
        self.flush()

    def flush(self) -> None:
        """See `Journal`."""
        records = [self._record_of(added) for added in self._added]
        self._added = []
        self._keep(records)
        self._kept = time.monotonic()

    def _add(self, added: Mapping[str, TargetScores] | bytes) -> None:
        self._added.append(added)
        if time.monotonic() - self._kept > _SECONDS_BETWEEN_WRITES:
            self.flush()

    def _keep(self, records: Sequence[bytes]) -> None:
        raise NotImplementedError

    def _continue(self, records: Sequence[bytes]) -> TokenBudget | None:
        """Take up what an earlier run recorded; None where that was of another pass."""
        if not records:
            return None
        header = json.loads(records[0])
        if header["binding"] != self._binding:
            return None
        self._earlier = [self._parsed(record) for record in records[1:]]
        return TokenBudget(**header["budget"])

    def _header(self, budget: TokenBudget) -> bytes:
        return json.dumps({"binding": self._binding, "budget": vars(budget)}).encode()

    def _record_of(self, added: Mapping[str, TargetScores] | TokenBudget | bytes) -> bytes:
        if isinstance(added, bytes):
            return added
        if isinstance(added, TokenBudget):
            return json.dumps({"budget": vars(added)}).encode()
        arrays = io.BytesIO()
        np.savez(
            arrays,
            logprob=np.stack([added[name].logprob.cpu().numpy() for name in self._names]),
            is_greedy=np.stack([added[name].is_greedy.cpu().numpy() for name in self._names]),
        )
        return arrays.getvalue()

    def _parsed(self, record: bytes) -> Mapping[str, TargetScores] | TokenBudget:
        import torch

        from matformer_lab.scoring.lm_head import TargetScores

        if record.startswith(_CHANGE_BEGINS):
            return TokenBudget(**json.loads(record)["budget"])
        with np.load(io.BytesIO(record), allow_pickle=False) as arrays:
            logprob, is_greedy = (torch.from_numpy(arrays[k]) for k in ("logprob", "is_greedy"))
        return {
            name: TargetScores(logprob[number], is_greedy[number])
            for number, name in enumerate(self._names)
        }


class SentJournal(_RecordJournal):
    """A journal whose records come from another machine, and go there to be kept.

    Args:
        names: The slices, in an order of their own.
        binding: Everything the scores depend on.
        earlier: `FileJournal.records` there.
        send: Called with each new record, for `FileJournal.append` there.
    """

    def __init__(
        self,
        names: Sequence[str],
        binding: Mapping[str, Any],
        earlier: Sequence[bytes],
        send: Callable[[bytes], None],
    ) -> None:
        super().__init__(names, binding)
        self._before = tuple(earlier)
        self._send = send

    def begin(self, budget: TokenBudget) -> TokenBudget:
        """See `Journal`."""
        found = self._continue(self._before)
        if found is None:
            self._send(self._header(budget))
        return found or budget

    def _keep(self, records: Sequence[bytes]) -> None:
        for record in records:
            self._send(record)


class FileJournal(_RecordJournal):
    """A journal in a file, which belongs to one pass alone.

    Args:
        path: The file; its folder exists. A file that is not this pass's, or is damaged from its
            beginning on, is replaced.
        names: The slices, in an order of their own.
        binding: Everything the scores depend on.
    """

    def __init__(self, path: Path, names: Sequence[str], binding: Mapping[str, Any]) -> None:
        super().__init__(names, binding)
        self._path = path
        self._digest = blake3()

    def begin(self, budget: TokenBudget) -> TokenBudget:
        """See `Journal`."""
        found = self._continue(self.records())
        if found is None:
            self._restart(self._header(budget))
        return found or budget

    def records(self) -> list[bytes]:
        """All whole records in the file, header first; what was cut short or damaged is removed."""
        self._digest = blake3()
        data = read_small(self._path, _MAX_BYTES) if self._path.exists() else b""
        position = len(_MAGIC) if data.startswith(_MAGIC) else 0
        records = []
        while position and (record := self._record(data, position)) is not None:
            records.append(record)
            position += _HEADER + len(record)
        if records and position < len(data):
            self._write("wb", data[:position])
        return records

    def append(self, record: bytes) -> None:
        """Keep a record of a `SentJournal`, whose beginning was `records`."""
        if record.startswith(_HEADER_BEGINS):
            self._added = []
            self._restart(record)
        else:
            self._add(record)

    def _keep(self, records: Sequence[bytes]) -> None:
        self._write("ab", b"".join(map(self._chained, records)))

    def _restart(self, header: bytes) -> None:
        self._digest = blake3()
        self._write("wb", _MAGIC + self._chained(header))

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


def is_journal(path: Path) -> bool:
    """Whether a file is one that `FileJournal` wrote."""
    with open_regular(path) as file:
        return file.read(len(_MAGIC)) == _MAGIC

"""Change records that were read and not landed yet, as they came, topic by topic in their order.

They stay in memory as long as they are few; what comes on top goes to disk, since one transaction can be
larger than memory.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from flows.extract import SourceError

MEMORY_BYTES = 192 << 20
"""How much of them stays in memory."""
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class _Held:
    """One batch of a topic, in memory or in a file; its first `skipped` rows were handed on."""

    first: int
    last: int
    size: int
    batch: pa.RecordBatch | None
    path: Path | None = None
    skipped: int = 0

    def rows(self) -> pa.RecordBatch:
        """Those that were not handed on."""
        batch = self.batch
        if batch is None:
            with pa.ipc.open_file(str(self.path)) as reader:
                batch = reader.get_batch(0)
        return batch.slice(self.skipped)


@dataclass(frozen=True)
class Records:
    """Records of one topic, in `kafka_records.SCHEMA`; to be read as often as they are needed."""

    held: tuple[_Held, ...]
    after: int

    @property
    def bytes(self) -> int:
        """How large they are, with the rest of the last batch."""
        return sum(one.size for one in self.held)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for one in self.held:
            batch = one.rows()
            yield batch.slice(0, _before(batch, self.after)) if one.last >= self.after else batch


class Backlog:
    """`folder` is made when something has to go to disk; None: everything stays in memory."""

    def __init__(self, folder: Path | None = None, memory_bytes: int | None = None) -> None:
        self._folder = folder / f"changes-{secrets.token_hex(8)}" if folder is not None else None
        self._memory_bytes = MEMORY_BYTES if memory_bytes is None else memory_bytes
        self._topics: dict[str, list[_Held]] = {}

    @property
    def bytes(self) -> int:
        """How large they are, wherever they are."""
        return sum(one.size for held in self._topics.values() for one in held)

    def keep(self, batch: pa.RecordBatch) -> None:
        """Take in what came of one topic behind all that is here of it. Raises SourceError (disk full)."""
        if not batch.num_rows:
            return
        offsets = batch.column("kafka_offset")
        held = _Held(offsets[0].as_py(), offsets[-1].as_py(), batch.nbytes, batch)
        in_memory = sum(one.size for there in self._topics.values() for one in there if one.batch is not None)
        if self._folder is not None and in_memory + held.size > self._memory_bytes:
            held = replace(held, batch=None, path=self._put_away(batch))
        self._topics.setdefault(batch.column("topic")[0].as_py(), []).append(held)

    def before(self, topic: str, after: int) -> Records:
        """The records of a topic before that offset; good until they are forgotten."""
        held = self._topics.get(topic, ())
        return Records(tuple(one for one in held if one.first < after), after)

    def forget(self, after: Mapping[str, int]) -> None:
        """Let go of records: topic → the first offset that stays."""
        for topic, offset in after.items():
            there = self._topics.pop(topic, [])
            left = []
            for one in there:
                if one.last < offset:
                    if one.path is not None:
                        one.path.unlink(missing_ok=True)
                elif one.first < offset:
                    gone = _before(one.rows(), offset)
                    left.append(replace(one, first=offset, skipped=one.skipped + gone))
                else:
                    left.append(one)
            if left:
                self._topics[topic] = left

    def close(self) -> None:
        """Let go of everything."""
        self._topics.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _put_away(self, batch: pa.RecordBatch) -> Path:
        assert self._folder is not None
        path = self._folder / f"{secrets.token_hex(8)}.arrow"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with pa.ipc.new_file(str(path), batch.schema, options=_COMPRESSED) as writer:
                writer.write_batch(batch)
        except OSError as error:
            raise SourceError(
                f"Changes that wait for the rest of their transactions have no room in {self._folder}: "
                f"{error.strerror or error}. Nothing of them was landed; free space and run again."
            ) from error
        return path


def _before(batch: pa.RecordBatch, offset: int) -> int:
    """How many of its rows lie before an offset."""
    return int(pc.sum(pc.less(batch.column("kafka_offset"), offset)).as_py() or 0)

"""What the records of a change topic tell of the connector's first read of its table."""

from __future__ import annotations

from dataclasses import dataclass

_BEGINS = frozenset({"first", "first_in_data_collection"})
_ENDS = frozenset({"last", "last_in_data_collection"})

Mark = tuple[str, int, int]
"""(`source.snapshot`, LSN, records): how many records have both; 'false' is a change of the log."""


@dataclass
class FirstRead:
    """One table's first read, as its topic tells it so far.

    A connector that was interrupted reads all tables again, from another place in the source's log: each
    reading is known by that place, the LSN that all its records have. Only those from `since` on are of the
    present registration; None: nobody knows, so nothing is told.
    """

    since: int | None = None
    reading: int | None = None
    """The LSN of the newest one that has a record here."""
    is_whole: bool = False
    """Whether its last record is here."""
    _begins: int = 0
    _ends: int = 0
    _records: int = 0
    _others: int = 0

    def note(self, marks: list[Mark]) -> None:
        """Take in what further records say."""
        for mark, lsn, records in sorted(marks, key=lambda one: one[1]):
            if self.since is None or lsn < self.since or mark == "incremental":
                # A change of the log behind the first read changes what that has told.
                self._others += 0 if mark == "false" and self.is_whole else records
                continue
            if self.reading is None or lsn > self.reading:
                self._others += self._records
                self.reading, self.is_whole = lsn, False
            self.is_whole = self.is_whole or (lsn == self.reading and mark in _ENDS)
            self._begins += records if mark in _BEGINS else 0
            self._ends += records if mark in _ENDS else 0
            self._records += records

    @property
    def is_all(self) -> bool:
        """Whether the topic tells of one reading, from its first record to its last, and of nothing before:
        no row can have gone without a word.
        """
        is_one = self._begins == 1 or (self._begins == 0 and self._records == 1)
        return self.is_whole and self._ends == 1 and is_one and not self._others


def are_whole(tables: list[FirstRead]) -> bool:
    """Whether all of these tables were read to their ends by one and the same reading."""
    return len({table.reading for table in tables}) <= 1 and all(table.is_whole for table in tables)

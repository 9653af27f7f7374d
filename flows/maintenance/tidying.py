"""Few files and few entries of tables that change often; no row and no content changes by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from flows.build import compaction
from flows.build.as_of import AS_OF
from flows.landed import LANDED_ON
from flows.maintenance.folding import fold_past
from flows.services import Services
from flows.stores.joint import JointLedger
from flows.stores.ledger import Ledger
from flows.stores.ledger_reader import now_in
from flows.stores.manifest import LakeFile
from transforms import registry
from transforms.contract import Layer, Table, Write
from transforms.entities import Kafka

RAW_FILES = 64
"""More raw files of one table and day than these are not kept: each is a second in which something came."""
TOPIC_FILES = 200
"""The same for an event topic, which the stream lands every ten minutes and sooner where much comes."""
_JOIN_AFTER = RAW_FILES // 2
_FOLD_AFTER = 600
"""Commits of a table after which its past is told in fewer entries."""


class Tidying:
    """Tidies beside other work, one table at a time: to be stepped when there is nothing else to do."""

    def __init__(self, services: Services, tables: Iterable[Table], run_id: str) -> None:
        known = {table.name for table in tables}
        self._services = services
        self._run_id = run_id
        self._tables = {table.name: table for table in tidied() if table.name in known}
        # What an earlier process left to do nobody knows.
        self._to_join = Counter({name: _JOIN_AFTER for name, table in self._tables.items() if _is_raw(table)})
        self._to_fold = Counter(dict.fromkeys(self._tables, _FOLD_AFTER))

    def note(self, names: Iterable[str]) -> None:
        """These tables got another commit."""
        changed = [name for name in names if name in self._tables]
        self._to_fold.update(changed)
        self._to_join.update(name for name in changed if _is_raw(self._tables[name]))

    def step(self, ledger: JointLedger) -> None:
        """Tidy the table for which it is time most, if there is one."""
        for waiting, after in ((self._to_join, _JOIN_AFTER), (self._to_fold, _FOLD_AFTER)):
            name, count = waiting.most_common(1)[0] if waiting else ("", 0)
            if count < after:
                continue
            table = self._tables[name]
            waiting[name] = 0
            if waiting is self._to_fold:
                fold(self._services, ledger, table)
                return
            with ledger.locked("land", name), ledger.jointly():
                join_landed(self._services, ledger, table, self._run_id, RAW_FILES)
            return


def _is_raw(table: Table) -> bool:
    return table.layer is Layer.RAW


def tidied() -> list[Table]:
    """The tables whose past is told in fewer entries and whose files are joined beside other work: all but
    event topics and what is made of them by appending. A topic's landings say which offsets they hold; its
    files are joined by `maintain`.
    """
    appended = [table for table in registry.build_order() if table.write is Write.APPEND]
    left = {table.name for table in topics()}
    left.update(name for table in appended for name in (table.name, *table.upstreams))
    return [table for name, table in registry.tables().items() if name not in left]


def topics() -> list[Table]:
    """The raw tables of event topics."""
    return [registry.table(entity.table) for entity in registry.entities() if isinstance(entity.read, Kafka)]


def followers(table: Table) -> list[str]:
    """The tables that read of `table` what is new behind the entry that they noted."""
    return [
        one.name
        for one in registry.build_order()
        if table.name in one.followed or (one.write is Write.APPEND and table.name in one.upstreams)
    ]


def join_landed(services: Services, ledger: Ledger, table: Table, run_id: str, at_most: int) -> int:
    """Join small raw files of a day where there are `at_most` or more, of landings that all followers have
    read; how many files there are fewer.

    To be called under the table's landing lock. A crash leaves orphans, or the files as they are to be.
    """
    names = followers(table)
    read = ledger.read_up_to(table.name, names)
    if read is None and any(registry.table(name).write is Write.APPEND for name in names):
        return 0  # nobody has read any of it yet
    behind = ledger.landed(table.name, after=read[0]) if read else []
    joined = ledger.joined(table.name)
    unread = {now_in(file, joined).path for landing in behind for file in landing.add}
    by_day: dict[str, list[LakeFile]] = {}
    for file in ledger.files(table.name):
        if file.path not in unread:
            by_day.setdefault(file.partition, []).append(file)
    fewer = 0
    for day, there in sorted(by_day.items()):
        files = compaction.to_be_joined(there, at_most)
        if not files:
            continue
        commit = compaction.joined(services.lake, table, day, files, LANDED_ON, "_landed_at", run_id)
        ledger.record(services.lake, commit, version=0)
        fewer += len(files) - 1
    return fewer


def fold(services: Services, ledger: Ledger, table: Table) -> int:
    """Tell the past of a table in fewer entries, as far as all followers have read it; how many fewer."""
    read = ledger.read_up_to(table.name, followers(table))
    is_joined_as_of = any(table.name in one.as_of for one in registry.build_order())
    kept = [token for _, token, _ in ledger.differing(table.name, AS_OF)] if is_joined_as_of else []
    return fold_past(ledger, services.lake, table.layer.value, table.name, read[1] if read else None, kept)

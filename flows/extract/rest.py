"""List endpoints over HTTPS, as `Rest` declares them, into raw rows: id, object, window_start, window_end.

A read covers the half-open window [last read's end - lookback, now), in whole seconds; where the newest
object ever seen is older than that, it begins with that one: what a quiet list shows late is met however late
it is. What it lands once more in the overlap is only what has changed: the position carries a digest for
every object of that overlap, and nothing older. A list that can't be asked by time is all overlap.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from flows.api_settings import KEY, variable
from flows.extract import DeadLetter, Extract, oauth
from flows.extract.answer import Record, moment, steps
from flows.extract.asking import Asking, Window
from flows.extract.http import RefusedError, RestConnection
from flows.extract.paging import pages
from flows.failpoints import failpoint
from transforms.entities import Rest, SourceEntity

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("object", pa.json_(), nullable=False),
        pa.field("window_start", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("window_end", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
"""Older than every record of a REST source: where a first read starts."""

_REMEMBERED = 10_000


def read(
    entity: SourceEntity, connection: RestConnection, position: Mapping[str, Any] | None, now: datetime
) -> Extract:
    """Start reading what is new in an entity since `position` (None or empty: everything).

    Nothing is asked before the first batch is taken. In this order, for every page: ask (with the pauses,
    tries and limits of http.py), take the answer apart, drop what was landed before, hand bad records over
    as dead letters, give the rest as one batch; after the last page `positions` becomes {until, newest,
    digests, key}.
    Raises RestError (one line, without the key) when the service can't be read or contradicts itself;
    nothing of that read may then be committed.
    """
    reading = _Reading(entity, connection, position, now)
    extract = Extract(schema=SCHEMA, batches=iter(()), windows={})
    extract.batches = reading.batches(extract)
    return extract


def key_digest(connection: RestConnection) -> str:
    """What tells one key from another and says nothing of either."""
    return hashlib.blake2b(connection.key.encode(), digest_size=8).hexdigest()


class _Reading:
    """The state of one read of one entity."""

    def __init__(
        self,
        entity: SourceEntity,
        connection: RestConnection,
        position: Mapping[str, Any] | None,
        now: datetime,
    ) -> None:
        if not isinstance(entity.read, Rest):
            raise TypeError(f"{entity.table} is not declared with the REST protocol")
        self._entity = entity
        self._rest = entity.read
        self._recorded_at, self._event_time = steps(entity.read.recorded_at), steps(entity.read.event_time)
        self._connection = connection
        self._name = f"{entity.source}.{entity.name}"
        self._now = now
        self._before, last_end, newest = self._open(position)
        end = now.astimezone(UTC).replace(microsecond=0)
        start = BEGINNING if self._rest.history is None else self._floor(end - self._rest.history)
        if last_end is not None:
            start = self._floor(last_end - self._rest.lookback)
        if newest is not None:
            start = min(start, newest)
        # A clock that was set back reads its overlap again and keeps the position.
        self._window = Window(min(start, end), end)
        self._until = max(end, last_end or end)
        self._overlap = self._floor(self._until - self._rest.lookback)
        self._newest = newest or start
        """Nothing younger was seen yet: where a list is quiet the next read begins here."""
        self._at_newest: dict[str, str] = {}
        self._is_ms = self._rest.time_format == "unix_ms"
        self._is_whole = not self._rest.asks("since")
        """Whether each read goes through all that there is, since nothing asks for a range."""
        self._is_asked_by_it = not self._is_whole
        """Whether `recorded_at` can be the time that ranges are about, as far as the objects tell."""
        self._key = key_digest(connection)
        self._has_other_key = (position or {}).get("key", self._key) != self._key
        self._met_again = False
        self._digests: dict[str, str] = {}
        self._recent = OrderedDict[str, str]()

    def _floor(self, time: datetime) -> datetime:
        """The start of the second, of the day where ranges are dates."""
        second = time.replace(microsecond=0)
        return second if self._rest.time_format != "date" else second.replace(hour=0, minute=0, second=0)

    def _open(
        self, position: Mapping[str, Any] | None
    ) -> tuple[Mapping[str, str], datetime | None, datetime | None]:
        """Digests, end and newest object of what was read before. RefusedError: it is too long ago for what
        the service keeps.
        """
        if not position:
            return {}, None, None
        try:
            last_end = datetime.fromisoformat(position["until"]).astimezone(UTC)
            told = position.get("newest")
            newest = None if told is None else datetime.fromisoformat(told).astimezone(UTC)
            digests: Mapping[str, str] = dict(position.get("digests", {}))
        except (KeyError, TypeError, ValueError):
            raise RefusedError(
                f"{self._name}: its position in the ledger can't be read; {_anew(self._entity.table)}."
            ) from None
        keeps = self._rest.keeps
        if keeps is not None and last_end < self._now - keeps:
            raise RefusedError(
                f"{self._name}: last read up to {last_end:%Y-%m-%d %H:%M} UTC, but the service keeps only "
                f"{keeps.days} days, so changes since then are lost; "
                f"{_anew(f'raw_{self._entity.source}__%')}."
            )
        return digests, last_end, newest

    def batches(self, extract: Extract) -> Iterator[pa.RecordBatch]:
        """Read page after page, filling `extract` beside."""
        days: Counter[date | None] = Counter()
        untold = 0
        with oauth.opened(self._name, self._connection, self._rest.api) as http:
            asking = Asking(self._name, self._rest, http, self._connection.max_pages, extract.warnings)
            for window, records in pages(asking, self._window):
                failpoint("rest.page_read")
                rows: list[Record] = []
                for record in records:
                    recorded_at = moment(record.value, self._recorded_at, self._is_ms)
                    if not self._is_fresh(record, recorded_at):
                        continue
                    if record.id is None:
                        extract.dead_letters.append(self._dead(record))
                        continue
                    rows.append(record)
                    untold += recorded_at is None
                    days[self._touched(record, recorded_at)] += 1
                if rows:
                    yield _batch(rows, window)
        extract.windows = {day.isoformat() if day else "": count for day, count in days.items()}
        if self._is_whole and len(self._digests) >= _REMEMBERED:
            extract.warnings.append(
                f"{self._name}: it has {_REMEMBERED:,} objects or more and is read whole each time; those "
                "behind them are landed anew with each read. Where the API can be asked by time, declare "
                "`since` and `until`."
            )
        if untold and untold == days.total() and not self._is_whole:
            extract.warnings.append(
                f"{self._name}: none of {untold:,} objects has a time at {self._rest.recorded_at}, so it is "
                "not known which of them the next read meets again. Name the field that the range is about "
                "in the declaration, `recorded_at=`."
            )
        if self._has_other_key:
            self._hold_to_account(extract.warnings)
        newest = self._newest if self._is_asked_by_it else self._until
        extract.positions = {
            "until": self._until.isoformat(),
            "newest": newest.isoformat(),
            "digests": self._digests | (self._at_newest if newest < self._overlap else {}),
            "key": self._key,
        }

    def _hold_to_account(self, warnings: list[str]) -> None:
        """Of another key: a new one of the same account lists again what the last read had in the overlap."""
        if self._met_again:
            return
        what = f"{self._name}: it is read with another key than before, and"
        setting = variable(self._entity.source, KEY)
        if not self._before:
            warnings.append(
                f"{what} nothing that was read last tells whether of the same account. If it is another's, "
                f"put the old {setting} back: what both have would come into one table."
            )
            return
        raise RefusedError(
            f"{what} none of the {len(self._before):,} objects that were read last is there: it is another "
            f"account's, or of test instead of live mode. Nothing was landed. Set {setting} to one of the "
            f"account that was read; if it is that, {_anew(self._entity.table)}."
        )

    # ------------------------------------------------------------ what is new

    def _is_fresh(self, record: Record, time: datetime | None) -> bool:
        """Whether this content was not landed by the last read or on a page before; notes it for the next."""
        place, digest, recent = record.place, record.digest, self._recent
        self._met_again |= place in self._before
        was_landed = digest in (recent.pop(place, None), self._before.get(place))
        recent[place] = digest
        if len(recent) > _REMEMBERED:
            recent.popitem(last=False)  # of a dict, the first is looked for behind all that went before
        # Without a time nobody knows whether it is in the overlap; a bounded number of these is kept, as of
        # those that come again with every read.
        if time is None or self._is_whole:
            is_kept = len(self._digests) < _REMEMBERED
            self._is_asked_by_it &= record.id is None  # a record that can't be read says nothing of it
        else:
            is_kept = time >= self._overlap
            self._note_newest(time, place, digest)
        if is_kept:
            self._digests[place] = digest
        return not was_landed

    def _note_newest(self, time: datetime, place: str, digest: str) -> None:
        """Where the next read begins if the list is quiet until then, and what it meets again there. A time
        before what was asked for is not the one that ranges are about: nothing can begin with it.
        """
        second = self._floor(time)
        self._is_asked_by_it &= second >= self._window.start
        if second >= self._window.end:
            return
        if second > self._newest:
            self._newest = second
            self._at_newest.clear()
        if second == self._newest:
            self._at_newest[place] = digest

    def _dead(self, record: Record) -> DeadLetter:
        return DeadLetter(
            source=self._entity.source,
            entity=self._entity.name,
            reason=record.reason or "",
            payload=record.text,
            received_at=self._now,
            coordinates=record.digest,
        )

    def _touched(self, record: Record, recorded_at: datetime | None) -> date | None:
        """The UTC day of the record's event time, else of the time the list is about; None for the whole
        entity.
        """
        if not self._event_time:
            return None
        is_same = self._event_time == self._recorded_at
        time = recorded_at if is_same else moment(record.value, self._event_time, self._is_ms) or recorded_at
        return None if time is None else time.date()


def _anew(tables: str) -> str:
    """What to do to read everything again. The version goes on, so that the ledger takes it for new."""
    return (
        "to read every object anew, in the warehouse: update ops.position set positions = '{}', "
        f"version = version + 1 where entity like '{tables}'"
    )


def _batch(records: list[Record], window: Window) -> pa.RecordBatch:
    objects = pa.array([record.text for record in records], pa.binary()).cast(pa.string())
    time = SCHEMA.field("window_start").type
    return pa.RecordBatch.from_arrays(
        [
            pa.array([record.id for record in records], pa.string()),
            pa.ExtensionArray.from_storage(pa.json_(), objects),
            pa.repeat(pa.scalar(window.start, time), len(records)),
            pa.repeat(pa.scalar(window.end, time), len(records)),
        ],
        schema=SCHEMA,
    )

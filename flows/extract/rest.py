"""List endpoints over HTTPS, as `Rest` declares them, into raw rows: id, object, window_start, window_end.

A read covers the half-open window [last read's end - lookback, now), in whole seconds. What it lands once
more in the overlap is only what has changed: the position carries a digest for every object of that
overlap, and nothing older.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from flows.extract import DeadLetter, Extract
from flows.extract.answer import Answer, Record, moment, parse, steps
from flows.extract.http import AnswerError, Http, RestConnection, RestError
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

_SECOND = timedelta(seconds=1)
_REPEATS = 2
_MOVES = 5
_REMEMBERED = 10_000
_AIM, _GROWTH = 0.7, 8
"""How full a range's answer should be, and by how much the next range may be longer than the last."""


@dataclass(frozen=True)
class Window:
    """A half-open range of time, in whole seconds."""

    start: datetime
    end: datetime


def read(
    entity: SourceEntity, connection: RestConnection, position: Mapping[str, Any] | None, now: datetime
) -> Extract:
    """Start reading what is new in an entity since `position` (None or empty: everything).

    Nothing is asked before the first batch is taken. In this order, for every page: ask (with the pauses,
    tries and limits of http.py), take the answer apart, drop what was landed before, hand bad records over
    as dead letters, give the rest as one batch; after the last page `positions` becomes {until, digests}.
    Raises RestError (one line, without the key) when the service can't be read or contradicts itself;
    nothing of that read may then be committed.
    """
    reading = _Reading(entity, connection, position, now)
    extract = Extract(schema=SCHEMA, batches=iter(()), windows={})
    extract.batches = reading.batches(extract)
    return extract


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
        self._before, last_end = self._open(position)
        end = now.astimezone(UTC).replace(microsecond=0)
        start = BEGINNING if self._rest.history is None else self._floor(end - self._rest.history)
        if last_end is not None:
            start = self._floor(last_end - self._rest.lookback)
        # A clock that was set back reads its overlap again and keeps the position.
        self._window = Window(min(start, end), end)
        self._until = max(end, last_end or end)
        self._overlap = self._floor(self._until - self._rest.lookback)
        self._digests: dict[str, str] = {}
        self._recent: dict[str, str] = {}
        self._pages = 0

    def _floor(self, time: datetime) -> datetime:
        """The start of the day where ranges are dates."""
        return time if self._rest.time_format != "date" else time.replace(hour=0, minute=0, second=0)

    def _open(self, position: Mapping[str, Any] | None) -> tuple[Mapping[str, str], datetime | None]:
        """Digests and end of the last read; RestError when it is too long ago for what the service keeps."""
        if not position:
            return {}, None
        try:
            last_end = datetime.fromisoformat(position["until"]).astimezone(UTC)
            digests: Mapping[str, str] = dict(position.get("digests", {}))
        except (KeyError, TypeError, ValueError):
            raise RestError(
                f"{self._name}: its position in the ledger can't be read; {_anew(self._entity.table)}."
            ) from None
        keeps = self._rest.keeps
        if keeps is not None and last_end < self._now - keeps:
            raise RestError(
                f"{self._name}: last read up to {last_end:%Y-%m-%d %H:%M} UTC, but the service keeps only "
                f"{keeps.days} days, so changes since then are lost; "
                f"{_anew(f'raw_{self._entity.source}__%')}."
            )
        return digests, last_end

    def batches(self, extract: Extract) -> Iterator[pa.RecordBatch]:
        """Read page after page, filling `extract` beside."""
        rest = self._rest
        days: Counter[date | None] = Counter()
        with Http(self._name, self._connection) as http:
            pages = {"cursor": self._by_cursor, "offset": self._by_offset, "window": self._by_window}
            for window, records in pages[rest.paging](http):
                failpoint("rest.page_read")
                rows: list[Record] = []
                for record in records:
                    recorded_at = moment(record.value, self._recorded_at)
                    if not self._is_fresh(record, recorded_at):
                        continue
                    if record.id is None:
                        extract.dead_letters.append(self._dead(record))
                        continue
                    rows.append(record)
                    days[self._touched(record, recorded_at)] += 1
                if rows:
                    yield _batch(rows, window)
        extract.windows = {day.isoformat() if day else "": count for day, count in days.items()}
        extract.positions = {"until": self._until.isoformat(), "digests": self._digests}

    # ------------------------------------------------------------ what is new

    def _is_fresh(self, record: Record, time: datetime | None) -> bool:
        """Whether this content was not landed by the last read or on a page before; notes it for the next."""
        place, digest, recent = record.place, record.digest, self._recent
        was_landed = digest in (recent.pop(place, None), self._before.get(place))
        recent[place] = digest
        if len(recent) > _REMEMBERED:
            del recent[next(iter(recent))]
        # Without a time nobody knows whether it is in the overlap; a bounded number of these is kept.
        if (time is None and len(self._digests) < _REMEMBERED) or (
            time is not None and time >= self._overlap
        ):
            self._digests[place] = digest
        return not was_landed

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
        time = recorded_at if is_same else moment(record.value, self._event_time) or recorded_at
        return None if time is None else time.date()

    # ------------------------------------------------------------ one request

    def _ask(self, http: Http, window: Window, paging: Mapping[str, str]) -> Answer:
        """One page. Loud when a read takes more pages than any real one."""
        rest = self._rest
        self._pages += 1
        if self._pages > self._connection.max_pages:
            raise RestError(
                f"{self._name}: more than {self._connection.max_pages:,} pages in one read; stopped. "
                "If that is real, raise the limit of the connection."
            )
        end = window.end - _SECOND if rest.until_is_inclusive else window.end
        since, until = self._written(window.start), self._written(end)
        parameters = {
            name: value.replace("{since}", since).replace("{until}", until)
            for name, value in rest.parameters.items()
        }
        if rest.since:
            parameters[rest.since] = since
        if rest.until:
            parameters[rest.until] = until
        parameters |= {"limit": str(rest.page_size), **paging}
        return http.get(rest.path, parameters, lambda body: parse(body, rest.records, rest.id_fields))

    def _written(self, time: datetime) -> str:
        match self._rest.time_format:
            case "unix":
                return str(int(time.timestamp()))
            case "iso":
                return f"{time:%Y-%m-%dT%H:%M:%SZ}"
            case "date":
                return f"{time:%Y-%m-%d}"

    # ------------------------------------------------------------ ways of paging

    def _by_cursor(self, http: Http) -> Iterator[tuple[Window, Iterable[Record]]]:
        """starting_after / has_more, newest first.

        A service that says "no more" is asked once more after its last object, so that a lying has_more
        hides nothing. A cursor that comes back is asked twice and then ends the read. When the cursor's
        object was deleted between two pages, paging goes on after the one before it.
        """
        cursors: list[str] = []
        asked: set[str] = set()
        promised = True
        repeats = 0
        while True:
            paging = {"starting_after": cursors[-1]} if cursors else {}
            try:
                answer = self._ask(http, self._window, paging)
            except AnswerError as error:
                if error.code != "resource_missing" or len(cursors) < 2:
                    raise
                cursors.pop()
                continue
            has_more = answer.fields.get("has_more")
            if not isinstance(has_more, bool):
                raise RestError(f"{self._name}: an answer without has_more; is this the right API?")
            ids = [record.id for record in answer.records if record.id is not None]
            if not ids:
                yield self._window, answer.records
                if has_more:
                    raise RestError(
                        f"{self._name}: the service says there is more but gave no object to go on from; "
                        "nothing was landed. Run again later, and tell the vendor if it stays."
                    )
                return
            if ids[-1] in asked or (cursors and ids[-1] == cursors[-1]):
                if not promised:
                    return
                repeats += 1
                if repeats >= _REPEATS:
                    raise self._repeated(f"starting_after={ids[-1]}")
                continue
            yield self._window, answer.records
            # The ids of one page are kept as the ways back; older pages are settled.
            cursors = ids
            asked.add(ids[-1])
            promised = has_more
            repeats = 0

    def _by_offset(self, http: Http) -> Iterator[tuple[Window, Iterable[Record]]]:
        """limit / offset. Pages overlap by one record: when it is not where it was, the list has moved.

        A moved list (something before this page was deleted) is read again from one page earlier. Reading
        ends when an answer holds nothing but the overlap, so that a page that is short without reason hides
        nothing.
        """
        offset = repeats = moves = 0
        known: list[str] = []
        while True:
            records = self._ask(http, self._window, {"offset": str(offset)}).records
            places = [record.place for record in records]
            if not known:
                if not records:
                    return
            elif not places or places[0] not in known:
                moves += 1
                if moves > _MOVES:
                    raise RestError(
                        f"{self._name}: the list kept changing while it was read ({_MOVES} times); nothing "
                        "was landed. Run again later."
                    )
                offset = max(0, offset - self._rest.page_size)
                known = [] if offset == 0 else known
                continue
            elif places == known[-1:] or (
                len(places) < len(known) and places == known[len(known) - len(places) :]
            ):
                return
            elif set(places) <= set(known):
                repeats += 1
                if repeats >= _REPEATS:
                    raise self._repeated(f"offset={offset}")
                continue
            yield self._window, records
            repeats = 0
            offset += len(records) - 1
            known = places

    def _by_window(self, http: Http) -> Iterator[tuple[Window, Iterable[Record]]]:
        """No paging: ranges, oldest first, each as long as should give most of a page.

        A full answer may hide the rest: its range is halved, down to a second, and asked again.
        """
        start, end = self._window.start, self._window.end
        length = end - start
        while start < end:
            window = Window(start, min(start + length, end))
            length = window.end - start
            records = self._ask(http, window, {}).records
            if len(records) < self._rest.page_size:
                yield window, records
                start = window.end
                fill = len(records) / (_AIM * self._rest.page_size)
                length = max(int(length // _SECOND / max(fill, 1 / _GROWTH)), 1) * _SECOND
                continue
            if length <= _SECOND:
                raise RestError(
                    f"{self._name}: {len(records)} or more records in the one second from "
                    f"{window.start:%FT%TZ}, more than the service lists at once; nothing was landed. Ask "
                    "the vendor for an export of that second."
                )
            length = length // _SECOND // 2 * _SECOND

    def _repeated(self, where: str) -> RestError:
        return RestError(
            f"{self._name}: the service gave the same page again ({where}); stopped after {_REPEATS} "
            "repeats, nothing was landed. Run again later, and tell the vendor if it stays."
        )


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

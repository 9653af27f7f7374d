"""The ways in which list endpoints give what does not fit into one answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus

from flows.extract.answer import Answer, Record, parse
from flows.extract.http import AnswerError, Http, RestError
from transforms.entities import Rest

_SECOND = timedelta(seconds=1)
_REPEATS = 2
_MOVES = 5
_QUOTABLE = re.compile(r'[^"\\{}]+')
"""An id that stands in quotes as it is."""
_AIM, _GROWTH = 0.7, 8
"""How full a range's answer should be, and by how much the next range may be longer than the last."""


@dataclass(frozen=True)
class Window:
    """A half-open range of time, in whole seconds."""

    start: datetime
    end: datetime


class Paging:
    """One read of one endpoint, page after page. `name` is what messages call it; `warnings` gets sentences
    about what the service did not give.
    """

    def __init__(
        self, name: str, rest: Rest, http: Http, max_pages: int, warnings: list[str] | None = None
    ) -> None:
        self._name = name
        self._rest = rest
        self._http = http
        self._max_pages = max_pages
        self._pages = 0
        self._warnings = [] if warnings is None else warnings

    def pages(self, window: Window) -> Iterator[tuple[Window, Iterable[Record]]]:
        """The records of a window with the part of it that was asked for, as the declaration says.

        Raises RestError when the service can't be read, contradicts itself or does not come to an end.
        """
        ways = {"cursor": self._by_cursor, "offset": self._by_offset, "window": self._by_window}
        return ways[self._rest.paging](window)

    # ------------------------------------------------------------ one request

    def _ask(self, window: Window, paging: Mapping[str, str], split: str = "") -> Answer:
        """One page. Loud when a read takes more pages than any real one."""
        rest = self._rest
        self._pages += 1
        if self._pages > self._max_pages:
            raise RestError(
                f"{self._name}: more than {self._max_pages:,} pages in one read; stopped. "
                "If that is real, raise the limit of the connection."
            )
        end = window.end - _SECOND if rest.until_is_inclusive else window.end
        since, until = self._written(window.start), self._written(end)
        parameters = {
            name: value.replace("{since}", since).replace("{until}", until).replace("{split}", split)
            for name, value in rest.parameters.items()
        }
        if rest.since:
            parameters[rest.since] = since
        if rest.until:
            parameters[rest.until] = until
        parameters |= {"limit": str(rest.page_size), **paging}
        return self._http.get(rest.path, parameters, lambda body: parse(body, rest.records, rest.id_fields))

    def _written(self, time: datetime) -> str:
        match self._rest.time_format:
            case "unix":
                return str(int(time.timestamp()))
            case "iso":
                return f"{time:%Y-%m-%dT%H:%M:%SZ}"
            case "date":
                return f"{time:%Y-%m-%d}"

    # ------------------------------------------------------------ ways of paging

    def _by_cursor(self, window: Window) -> Iterator[tuple[Window, Iterable[Record]]]:
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
                answer = self._ask(window, paging)
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
                yield window, answer.records
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
            yield window, answer.records
            # The ids of one page are kept as the ways back; older pages are settled.
            cursors = ids
            asked.add(ids[-1])
            promised = has_more
            repeats = 0

    def _by_offset(self, window: Window) -> Iterator[tuple[Window, Iterable[Record]]]:
        """limit / offset. Pages overlap by one record: when it is not where it was, the list has moved.

        A moved list (something before this page was deleted) is read again from one page earlier. Reading
        ends when an answer holds nothing but the overlap, so that a page that is short without reason hides
        nothing.
        """
        offset = repeats = moves = 0
        known: list[str] = []
        while True:
            records = self._ask(window, {"offset": str(offset)}).records
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
            yield window, records
            repeats = 0
            offset += len(records) - 1
            known = places

    def _by_window(self, window: Window) -> Iterator[tuple[Window, Iterable[Record]]]:
        """No paging: ranges, oldest first, each as long as should give most of a page.

        A full answer may hide the rest: its range is halved, down to a second, and asked again; a second is
        parted by ids.
        """
        start, end = window.start, window.end
        length = end - start
        while start < end:
            part = Window(start, min(start + length, end))
            length = part.end - start
            records = self._ask(part, {}).records
            if len(records) < self._rest.page_size:
                yield part, records
                start = part.end
                fill = len(records) / (_AIM * self._rest.page_size)
                length = max(int(length // _SECOND / max(fill, 1 / _GROWTH)), 1) * _SECOND
                continue
            if length <= _SECOND:
                yield from self._by_id(part, records)
                start = part.end
                continue
            length = length // _SECOND // 2 * _SECOND

    def _by_id(self, second: Window, records: Sequence[Record]) -> Iterator[tuple[Window, Iterable[Record]]]:
        """A second whose answer is full, in ranges of ids that are halved until none is.

        The ids of a full answer say where its middle is; whatever order the service has them in, each is in
        one half. What can't be parted is given as far as it is listed, and said: the read goes on, or one
        such second would keep away all that came after it.
        """
        waiting: list[tuple[str, str, Sequence[Record]]] = [("", "", records)]
        is_whole = True
        while waiting:
            low, high, listed = waiting.pop()
            parts = self._halves(second, low, high, listed) if len(listed) >= self._rest.page_size else []
            if parts:
                waiting += parts
                continue
            is_whole &= len(listed) < self._rest.page_size
            yield second, listed
        if not is_whole:
            self._warnings.append(
                f"{self._name}: {self._rest.page_size:,} or more records in the second "
                f"{second.start:%FT%TZ}, more than the service lists at once and than their ids could part. "
                "Those that it listed are landed; each of the others comes with its next change. For all of "
                "them now, ask the vendor for an export of that second."
            )

    def _halves(
        self, second: Window, low: str, high: str, listed: Sequence[Record]
    ) -> list[tuple[str, str, Sequence[Record]]]:
        """The records with ids in [low, high) in two parts ('': no bound); none where nothing parts them."""
        ids = sorted({record.id for record in listed if record.id and _QUOTABLE.fullmatch(record.id)})
        ids = [one for one in ids if one > low and (not high or one < high)]
        if self._rest.split is None or not ids:
            return []
        below, from_on = self._rest.split
        middle = ids[len(ids) // 2]
        parts: list[tuple[str, str, Sequence[Record]]] = []
        for first, end in ((low, middle), (middle, high)):
            bounds = from_on.replace("{id}", first) if first else ""
            bounds += below.replace("{id}", end) if end else ""
            try:
                parts.append((first, end, self._ask(second, {}, bounds).records))
            except AnswerError as error:
                if error.status != HTTPStatus.BAD_REQUEST:
                    raise
                return []
        lower, upper = ({record.place for record in part[-1]} for part in parts)
        return [] if lower & upper else parts

    def _repeated(self, where: str) -> RestError:
        return RestError(
            f"{self._name}: the service gave the same page again ({where}); stopped after {_REPEATS} "
            "repeats, nothing was landed. Run again later, and tell the vendor if it stays."
        )

"""Lists without paging: ranges of time that are split until no answer is full."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus

from flows.extract.answer import Record
from flows.extract.asking import SECOND, Asking, Window
from flows.extract.http import AnswerError

_Pages = Iterator[tuple[Window, Iterable[Record]]]
_QUOTABLE = re.compile(r'[^"\\{}]+')
"""An id that stands in quotes as it is."""
_AIM, _GROWTH = 0.7, 8
"""How full a range's answer should be, and by how much the next range may be longer than the last."""


def by_window(asking: Asking, window: Window) -> _Pages:
    """No paging: ranges, oldest first, each as long as should give most of a page.

    A full answer may hide the rest: its range is halved, down to a second, and asked again; a second is
    parted by ids.
    """
    start, end = window.start, window.end
    length = end - start
    while start < end:
        part = Window(start, min(start + length, end))
        length = part.end - start
        records = asking.page(part, {}).records
        if len(records) < asking.rest.page_size:
            yield part, records
            start = part.end
            fill = len(records) / (_AIM * asking.rest.page_size)
            length = max(int(length // SECOND / max(fill, 1 / _GROWTH)), 1) * SECOND
            continue
        if length <= SECOND:
            yield from _by_id(asking, part, records)
            start = part.end
            continue
        length = length // SECOND // 2 * SECOND


def _by_id(asking: Asking, second: Window, records: Sequence[Record]) -> _Pages:
    """A second whose answer is full, in ranges of ids that are halved until none is.

    The ids of a full answer say where its middle is; whatever order the service has them in, each is in
    one half. What can't be parted is given as far as it is listed, and said: the read goes on, or one
    such second would keep away all that came after it.
    """
    waiting: list[tuple[str, str, Sequence[Record]]] = [("", "", records)]
    is_whole = True
    while waiting:
        low, high, listed = waiting.pop()
        parts = _halves(asking, second, low, high, listed) if len(listed) >= asking.rest.page_size else []
        if parts:
            waiting += parts
            continue
        is_whole &= len(listed) < asking.rest.page_size
        yield second, listed
    if not is_whole:
        asking.warnings.append(
            f"{asking.name}: {asking.rest.page_size:,} or more records in the second "
            f"{second.start:%FT%TZ}, more than the service lists at once and than their ids could part. "
            "Those that it listed are landed; each of the others comes with its next change. For all of "
            "them now, ask the vendor for an export of that second."
        )


def _halves(
    asking: Asking, second: Window, low: str, high: str, listed: Sequence[Record]
) -> list[tuple[str, str, Sequence[Record]]]:
    """The records with ids in [low, high) in two parts ('': no bound); none where nothing parts them."""
    ids = sorted({record.id for record in listed if record.id and _QUOTABLE.fullmatch(record.id)})
    ids = [one for one in ids if one > low and (not high or one < high)]
    if asking.rest.split is None or not ids:
        return []
    below, from_on = asking.rest.split
    middle = ids[len(ids) // 2]
    parts: list[tuple[str, str, Sequence[Record]]] = []
    for first, end in ((low, middle), (middle, high)):
        bounds = from_on.replace("{id}", first) if first else ""
        bounds += below.replace("{id}", end) if end else ""
        try:
            parts.append((first, end, asking.page(second, {}, bounds).records))
        except AnswerError as error:
            if error.status != HTTPStatus.BAD_REQUEST:
                raise
            return []
    lower, upper = ({record.place for record in part[-1]} for part in parts)
    return [] if lower & upper else parts

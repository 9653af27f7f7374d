"""The ways in which list endpoints give what does not fit into one answer, by the words of `Rest.paging`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus

from flows.extract.answer import Record, at
from flows.extract.asking import PAST_THE_END, REPEATS, Asking, Window
from flows.extract.http import AnswerError, RestError
from flows.extract.next_pages import by_next
from flows.extract.windows import by_window

Pages = Iterator[tuple[Window, Iterable[Record]]]
_MOVES = 5


def pages(asking: Asking, window: Window) -> Pages:
    """The records of a window with the part of it that was asked for, page after page.

    Raises RestError when the service can't be read, contradicts itself or does not come to an end.
    """
    ways: dict[str, Callable[[Asking, Window], Pages]] = {
        "single_page": _by_nothing,
        "page_number": _by_page_number,
        "offset": _by_offset,
        "cursor": by_next if asking.rest.next_path else _by_id,
        "header_link": by_next,
        "json_link": by_next,
        "window": by_window,
    }
    return ways[asking.rest.paging](asking, window)


def _by_nothing(asking: Asking, window: Window) -> Pages:
    yield window, asking.page(window, {}).records


def _by_id(asking: Asking, window: Window) -> Pages:
    """The last object's id goes back.

    A service that says "no more" is asked once more after its last object, so that a lying flag hides
    nothing. A cursor that comes back is asked twice and then ends the read. When the cursor's object was
    deleted between two pages, paging goes on after the one before it.
    """
    rest, name = asking.rest, asking.name
    cursors: list[str] = []
    asked: set[str] = set()
    promised = True
    repeats = 0
    while True:
        try:
            answer = asking.page(window, {rest.cursor_param: cursors[-1]} if cursors else {})
        except AnswerError as error:
            if error.code is None or error.code != rest.lost_cursor or len(cursors) < 2:
                raise
            cursors.pop()
            continue
        has_more = asking.has_more(answer)
        ids = [record.id for record in answer.records if record.id is not None]
        if not ids:
            yield window, answer.records
            if has_more:
                raise RestError(
                    f"{name}: the service says there is more but gave no object to go on from; nothing was "
                    "landed. Run again later, and tell the vendor if it stays."
                )
            return
        if ids[-1] in asked or (cursors and ids[-1] == cursors[-1]):
            if not promised:
                return
            repeats += 1
            if repeats >= REPEATS:
                raise asking.repeated(f"{rest.cursor_param}={ids[-1]}")
            continue
        yield window, answer.records
        # The ids of one page are kept as the ways back; older pages are settled.
        cursors = ids
        asked.add(ids[-1])
        promised = has_more is not False
        repeats = 0


def _by_offset(asking: Asking, window: Window) -> Pages:
    """limit / offset. Pages overlap by one record: when it is not where it was, the list has moved.

    A moved list (something before this page was deleted) is read again from one page earlier. Reading ends
    when an answer holds nothing but the overlap, so that a page that is short without reason hides nothing.
    """
    offset = repeats = moves = 0
    known: list[str] = []
    while True:
        records = asking.page(window, {asking.rest.offset_param: offset}).records
        places = [record.place for record in records]
        if not known:
            if not records:
                return
        elif not places or places[0] not in known:
            moves += 1
            if moves > _MOVES:
                raise _moving(asking)
            offset = max(0, offset - asking.rest.page_size)
            known = [] if offset == 0 else known
            continue
        elif places == known[-1:] or (
            len(places) < len(known) and places == known[len(known) - len(places) :]
        ):
            return
        elif set(places) <= set(known):
            repeats += 1
            if repeats >= REPEATS:
                raise asking.repeated(f"offset={offset}")
            continue
        yield window, records
        repeats = 0
        offset += len(records) - 1
        known = places


def _by_page_number(asking: Asking, window: Window) -> Pages:
    """Numbered pages, to an empty one. Where the answers tell how many there are, the page after the last one
    is asked for all the same, so that a number that lies hides nothing.

    Where the number of all records is told and gets less, something was deleted, and what follows it has
    moved to earlier pages: these are read again.
    """
    rest = asking.rest
    sizes: list[int] = []
    before: list[str] = []
    known = repeats = moves = 0
    is_done = False
    while True:
        page = rest.base_page + len(sizes)
        try:
            answer = asking.page(window, {rest.page_param: page})
        except AnswerError as error:
            tells = rest.total_path or rest.pages_path
            is_no_page = error.status in PAST_THE_END if tells else error.status == HTTPStatus.NOT_FOUND
            if sizes and is_no_page and (is_done or not tells):
                return
            raise
        places = [record.place for record in answer.records]
        if is_done and (not places or places == before):
            return
        total = _number(asking, answer.fields, rest.total_path)
        last = _number(asking, answer.fields, rest.pages_path)
        if total is not None and total < known:
            moves += 1
            if moves > _MOVES:
                raise _moving(asking)
            gone, known, before, is_done = known - total, total, [], False
            while sizes and gone > 0:
                gone -= sizes.pop()
            continue
        known = total or 0
        if places and places == before:
            repeats += 1
            if repeats >= REPEATS:
                raise asking.repeated(f"{rest.page_param}={page}")
            continue
        if not places:
            is_short = total is not None and sum(sizes) < total
            if is_short or (last is not None and len(sizes) < last and last > 1):
                told = f"{total:,} records" if is_short else f"{last:,} pages"
                raise RestError(
                    f"{asking.name}: the service says that there are {told}, and gave {sum(sizes):,} records "
                    f"on {len(sizes):,} pages; nothing was landed. Run again later, and tell the vendor if "
                    "it stays."
                )
            return
        yield window, answer.records
        repeats, before = 0, places
        sizes.append(len(places))
        is_done = (total is not None and sum(sizes) >= total) or (last is not None and len(sizes) >= last)


def _number(asking: Asking, fields: object, path: str | None) -> int | None:
    """What an answer says of a number; None where nothing is declared."""
    if path is None:
        return None
    found = at(fields, path)
    if isinstance(found, bool) or not str(found).isdecimal():
        raise RestError(f"{asking.name}: an answer without a number at {path}; is this the right API?")
    return int(str(found))


def _moving(asking: Asking) -> RestError:
    return RestError(
        f"{asking.name}: the list kept changing while it was read ({_MOVES} times); nothing was landed. Run "
        "again later."
    )

"""Lists of which each answer says where the next page is: by a cursor, or by an address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import httpx

from flows.extract.answer import Answer, Record, at
from flows.extract.asking import PAST_THE_END, REPEATS, Asking, Window
from flows.extract.http import AnswerError, RestError

_EMPTY = 1000
"""So many pages without a record, one after the other, and the list has no end."""


def by_next(asking: Asking, window: Window) -> Iterator[tuple[Window, Iterable[Record]]]:
    """Page after page, as each answer says.

    Where a page leads to one that was asked for before, or is the same as the one before it, it is asked for
    again, and the second time ends the read. A service that denies that there is more, and says all the same
    where it would be, is asked there, so that a lying flag hides nothing.
    """
    rest = asking.rest
    place = ""
    asked: set[str] = set()
    before: list[str] = []
    promised = True
    repeats = empty = 0
    while True:
        try:
            answer = _asked(asking, window, place)
        except AnswerError as error:
            if promised or error.status not in PAST_THE_END:
                raise
            return
        there = _next(asking, answer)
        has_more = asking.has_more(answer)
        places = [record.place for record in answer.records]
        is_again = bool(places) and places == before
        if not promised and (not places or is_again):
            return
        if is_again or (there and has_more is not False and there in {place, *asked}):
            repeats += 1
            if repeats >= REPEATS:
                raise asking.repeated(f"after {len(asked)} others")
            continue
        yield window, answer.records
        empty = 0 if places else empty + 1
        if empty >= _EMPTY:
            raise RestError(
                f"{asking.name}: {_EMPTY:,} pages in a row held no record; stopped, nothing was landed. Tell "
                "the vendor, or ask for a shorter range."
            )
        if not there:
            if has_more:
                raise RestError(
                    f"{asking.name}: the service says there is more but not where; nothing was landed. Run "
                    "again later, and tell the vendor if it stays."
                )
            if not place and len(places) >= rest.page_size and has_more is None:
                where = f"stood at {rest.next_path}" if rest.next_path else "stood in a header Link"
                asking.warnings.append(
                    f"{asking.name}: the first page was full and nothing {where}, so it was taken for all "
                    "there is. If there is more, correct how the declaration says that it goes on."
                )
            return
        if there in {place, *asked}:
            return
        asked.add(place)
        place, before, promised, repeats = there, places, has_more is not False, 0


def _asked(asking: Asking, window: Window, place: str) -> Answer:
    if not place:
        return asking.page(window, {})
    if asking.rest.paging == "cursor":
        return asking.page(window, {asking.rest.cursor_param: place})
    return asking.linked(httpx.URL(place))


def _next(asking: Asking, answer: Answer) -> str:
    """Where the next page is: a cursor, or an address that may be asked; '' where there is none."""
    rest, http = asking.rest, asking.http
    found = at(answer.fields, rest.next_path) if rest.next_path else http.next_link
    if found is None or found is False or found == "":
        return ""
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise RestError(f"{asking.name}: what stands at {rest.next_path} is no text; is this the right API?")
    if rest.paging == "cursor":
        return str(found)
    return str(http.address(str(found)))

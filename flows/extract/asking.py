"""One page of a list, asked as its declaration says: the range of time, the page's size, where it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Any

import httpx

from flows.extract.answer import Answer, at, parse, steps
from flows.extract.http import Http, RestError
from transforms.entities import Rest

SECOND = timedelta(seconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REPEATS = 2
"""How often a page may come again before a read ends."""
PAST_THE_END = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.GONE,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}
"""How an API answers that is asked for what is behind its last page."""


@dataclass(frozen=True)
class Window:
    """A half-open range of time, in whole seconds."""

    start: datetime
    end: datetime


class Asking:
    """One read of one endpoint. `name` is what messages call it; `warnings` gets sentences about what the
    service did not give.
    """

    def __init__(
        self, name: str, rest: Rest, http: Http, max_pages: int, warnings: list[str] | None = None
    ) -> None:
        self.name = name
        self.rest = rest
        self.http = http
        self.warnings = [] if warnings is None else warnings
        self._max_pages = max_pages
        self._pages = 0
        self._parse = partial(
            parse,
            records=rest.records,
            id_fields=rest.id_fields,
            is_object=rest.paging == "single_page",
            null_is_empty=rest.null_is_empty,
        )

    def page(self, window: Window, paging: Mapping[str, str | int], split: str = "") -> Answer:
        """One page. Loud when a read takes more pages than any real one."""
        self._count()
        rest = self.rest
        step = (_MILLISECOND if rest.time_format == "unix_ms" else SECOND) * rest.until_is_inclusive
        since, until = self._written(window.start), self._written(window.end - step)
        texts = {"{since}": str(since), "{until}": str(until), "{split}": split}
        own: dict[str, str | int] = {}
        if rest.since:
            own[rest.since] = since
        if rest.until:
            own[rest.until] = until
        if rest.limit_param and rest.paging != "single_page":
            own[rest.limit_param] = rest.page_size
        own |= paging
        fixed = {name: str(_filled(value, texts)) for name, value in rest.parameters.items()}
        if rest.body is None:
            asked = fixed | {name: str(value) for name, value in own.items()}
            return self.http.get(rest.path, asked, self._parse)
        body = _filled(rest.body, texts)
        for name, value in own.items():
            _put(body, steps(name), value)
        return self.http.get(rest.path, fixed, self._parse, body)

    def has_more(self, answer: Answer) -> bool | None:
        """Whether an answer says that there is more; None where the declaration names no place for that."""
        path = self.rest.more_path or self.rest.end_path
        if not path:
            return None
        said = at(answer.fields, path)
        if not isinstance(said, bool):
            raise RestError(f"{self.name}: an answer without {path}; is this the right API?")
        return said == bool(self.rest.more_path)

    def linked(self, address: httpx.URL) -> Answer:
        """The page at an address that the service gave."""
        self._count()
        return self.http.follow(address, self._parse)

    def repeated(self, where: str) -> RestError:
        """What to raise where a page came again and again."""
        return RestError(
            f"{self.name}: the service gave the same page again ({where}); stopped after {REPEATS} repeats, "
            "nothing was landed. Run again later, and tell the vendor if it stays."
        )

    def _count(self) -> None:
        self._pages += 1
        if self._pages > self._max_pages:
            raise RestError(
                f"{self.name}: more than {self._max_pages:,} pages in one read; stopped. "
                "If that is real, raise the limit of the connection."
            )

    def _written(self, time: datetime) -> str | int:
        match self.rest.time_format:
            case "unix":
                return int(time.timestamp())
            case "unix_ms":
                return (time - _EPOCH) // _MILLISECOND
            case "iso":
                return f"{time:%Y-%m-%dT%H:%M:%SZ}"
            case "date":
                return f"{time:%Y-%m-%d}"


def _filled(value: Any, texts: Mapping[str, str]) -> Any:
    """A copy of a declared value with the range in its texts."""
    if isinstance(value, Mapping):
        return {name: _filled(inner, texts) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(inner, texts) for inner in value]
    if isinstance(value, str):
        for name, text in texts.items():
            value = value.replace(name, text)
    return value


def _put(body: dict[str, Any], way: tuple[str, ...], value: str | int) -> None:
    for step in way[:-1]:
        body = body.setdefault(step, {})
    body[way[-1]] = value

"""SendGrid's lists as its API answers them: offsets, dates, and the activity feed's query language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flows.sandbox.apis.sendgrid_objects import STATS_METRICS, stats
from flows.sandbox.apis.store import SENDGRID_KINDS, SendGridKind, Store

SUPPRESSIONS: tuple[SendGridKind, ...] = SENDGRID_KINDS[2:]
"""The lists of addresses that get no more e-mail."""

_SUPPRESSION_PARAMETERS = frozenset({"start_time", "end_time", "limit", "offset", "email"})
_STATS_PARAMETERS = frozenset({"start_date", "end_date", "aggregated_by", "limit", "offset"})
_TIMESTAMP = r'TIMESTAMP\s+"([^"]+)"'
_BETWEEN = re.compile(rf"last_event_time\s+BETWEEN\s+{_TIMESTAMP}\s+AND\s+{_TIMESTAMP}", re.IGNORECASE)
_COMPARED = re.compile(rf"last_event_time\s*(>=|<=|>|<)\s*{_TIMESTAMP}", re.IGNORECASE)
_ORDERED = re.compile(r'(msg_id)\s*(>=|<=|>|<)\s*"([^"]*)"', re.IGNORECASE)
_EQUALS = re.compile(r'(to_email|from_email|msg_id|status|subject)\s*=\s*"([^"]*)"', re.IGNORECASE)


class BadRequest(Exception):
    """A 400 in SendGrid's words."""


def error(
    status: int, message: str, headers: Mapping[str, str] | None = None, field: str | None = None
) -> Response:
    """An answer in SendGrid's error shape."""
    body: dict[str, object] = {"message": message}
    if status != 429:
        body |= {"field": field, "help": None}
    return JSONResponse({"errors": [body]}, status_code=status, headers=dict(headers or {}))


def unauthorized() -> Response:
    """What SendGrid says to no key and to a wrong one."""
    return error(401, "The provided authorization grant is invalid, expired, or revoked")


def rate_limited(headers: Mapping[str, str]) -> Response:
    """What SendGrid says to too many requests."""
    return error(429, "too many requests", headers)


def _integer(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    if name not in query:
        return default
    try:
        number = int(query[name])
    except ValueError:
        raise BadRequest(f"{name} must be an integer") from None
    if not low <= number <= high:
        raise BadRequest(f"{name} must be between {low} and {high}")
    return number


def _known(query: Iterable[str], known: frozenset[str]) -> None:
    for name in query:
        if name not in known:
            raise BadRequest(f"unknown parameter '{name}'")


def _json_list(bodies: Iterable[str]) -> Response:
    return Response(f"[{','.join(bodies)}]", media_type="application/json")


def list_suppressions(kind: SendGridKind) -> Callable[[Store, Request], Response]:
    """GET /v3/suppression/<kind>: start_time and end_time are both inclusive; limit at most 500 (500)."""

    def answer(store: Store, request: Request) -> Response:
        query = request.query_params
        try:
            _known(query, _SUPPRESSION_PARAMETERS)
            limit = _integer(query, "limit", 500, 1, 500)
            offset = _integer(query, "offset", 0, 0, 2**53)
            since = _integer(query, "start_time", 0, 0, 2**53)
            until = _integer(query, "end_time", 2**53, 0, 2**53) + 1
        except BadRequest as problem:
            return error(400, str(problem))
        equals = {"email": query["email"]} if "email" in query else None
        return _json_list(
            store.page(kind, limit=limit, offset=offset, since=since, until=until, equals=equals)
        )

    return answer


def _date(query: Mapping[str, str], name: str, default: date | None = None) -> date:
    if name not in query and default is not None:
        return default
    try:
        return datetime.strptime(query.get(name, ""), "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise BadRequest(f"{name} is required and must be in the format YYYY-MM-DD") from None


def _period(day: date, aggregated_by: str) -> date:
    if aggregated_by == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if aggregated_by == "month" else day


def list_stats(store: Store, request: Request) -> Response:
    """GET /v3/stats: a record per period of [start_date, end_date], oldest first, also of quiet ones."""
    query = request.query_params
    try:
        _known(query, _STATS_PARAMETERS)
        start = _date(query, "start_date")
        newest = store.page("stats", limit=1)
        last = date.fromisoformat(orjson.loads(newest[0])["date"]) if newest else start
        end = _date(query, "end_date", default=max(start, last))
        aggregated_by = query.get("aggregated_by", "day")
        if aggregated_by not in {"day", "week", "month"}:
            raise BadRequest("aggregated_by must be one of day, week, month")
        limit = _integer(query, "limit", 2**31, 1, 2**31)
        offset = _integer(query, "offset", 0, 0, 2**31)
    except BadRequest as problem:
        return error(400, str(problem))
    first = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp())
    known: dict[date, dict[str, int]] = {}
    bodies = store.page("stats", limit=2**31, since=first, until=first + ((end - start).days + 1) * 86400)
    for item in map(orjson.loads, bodies):
        sums = known.setdefault(_period(date.fromisoformat(item["date"]), aggregated_by), {})
        for name, number in item["stats"][0]["metrics"].items():
            sums[name] = sums.get(name, 0) + number
    days = (start + timedelta(days=number) for number in range((end - start).days + 1))
    periods = list(dict.fromkeys(_period(day, aggregated_by) for day in days))[offset : offset + limit]
    empty = dict.fromkeys(STATS_METRICS, 0)
    return JSONResponse([stats(date=period.isoformat(), **known.get(period, empty)) for period in periods])


def _second(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"invalid syntax: '{text}' is not a timestamp") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def list_messages(store: Store, request: Request) -> Response:
    """GET /v3/messages: the newest `limit` (1 to 1000, 10) that `query` selects; no paging whatever."""
    query = request.query_params
    try:
        _known(query, frozenset({"query", "limit"}))
        limit = _integer(query, "limit", 10, 1, 1000)
        if not query.get("query"):
            raise BadRequest("query is required")
        rest = query["query"]
        since: int | None = None
        until: int | None = None
        if found := _BETWEEN.search(rest):
            since, until = _second(found[1]), _second(found[2]) + 1
            rest = rest.replace(found[0], "")
        for found in _COMPARED.finditer(rest):
            bound = _second(found[2])
            if found[1] in {">", ">="}:
                since = bound + (found[1] == ">")
            else:
                until = bound + (found[1] == "<=")
        equals = {found[1].lower(): found[2] for found in _EQUALS.finditer(rest)}
        ordered = [(found[1].lower(), found[2], found[3]) for found in _ORDERED.finditer(rest)]
        for known in (_COMPARED, _ORDERED, _EQUALS):
            rest = known.sub("", rest)
        left = re.sub(r"\bAND\b|[()\s]", "", rest, flags=re.IGNORECASE)
        if left:
            raise BadRequest(f"invalid syntax: '{left}' is not a known field")
    except BadRequest as problem:
        return JSONResponse({"errors": [{"message": str(problem)}]}, status_code=400)
    bodies = store.page("messages", limit=limit, since=since, until=until, equals=equals, ordered=ordered)
    return Response(f'{{"messages":[{",".join(bodies)}]}}', media_type="application/json")

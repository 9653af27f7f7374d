"""How the pipeline is, now: every signal measured, each by itself; and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from flows.logins import PLACE_TO_DO
from flows.monitoring import storage
from flows.monitoring.signals import BY_NAME, SIGNALS, Signal
from flows.monitoring.verdict import State, Verdict
from flows.monitoring.watch import Watch
from flows.readable import readable
from flows.services import Services
from flows.stores.warehouse_errors import NoPlace, WarehouseError, scrub

SPAN_GAP = timedelta(seconds=90)
"""Two looks no further apart than this leave no minute between them that nobody measured."""
_EVERYTHING = "everything"
"""Subject of a signal that could not be measured at all."""
_MOST_SECONDS_A_QUERY = 5


def check_pipeline_health(services: Services, only: Collection[str] | None = None) -> Sequence[Verdict]:
    """Every signal's verdicts, or those of these signals, of one moment. What can't be measured is unknown,
    says why, and stops nothing else; while the warehouse is away that is one verdict, beside what does
    without it.
    """
    now = services.settings.now()
    with ExitStack() as opened:
        away: list[Verdict] = []
        session: Connection[Any] | None = None
        try:
            session = opened.enter_context(services.warehouse.connect())
            session.execute(
                sql.SQL("set statement_timeout = {}").format(sql.Literal(f"{_MOST_SECONDS_A_QUERY}s"))
            )
        except WarehouseError as error:
            away.append(_away(now, error))
        watch = Watch(services, now, session)
        asked = [
            signal
            for signal in SIGNALS
            if (session is not None or not signal.needs_warehouse) and (only is None or signal.name in only)
        ]
        return [*away, *(verdict for signal in asked for verdict in _measured(signal, watch))]


def record(connection: Connection[Any], verdicts: Sequence[Verdict], now: datetime) -> list[Verdict]:
    """Keep verdicts of one moment in one transaction; returns them with the time since when each is so.

    1. ops.health: one row a signal and subject. `since` stays while the verdict does. A subject of which a
    signal that was measured says nothing any more is forgotten.
    2. ops.health_span: the last span grows if it has the same verdict and ended within 90 seconds; otherwise
    a new one begins. What lies between was measured by nobody and is in none.
    What was kept while the machine's clock was ahead is of no moment yet, and in nobody's way.
    """
    rows = Jsonb([_row(verdict) for verdict in verdicts])
    broken_off = {verdict.signal for verdict in verdicts if verdict.subject == _EVERYTHING}
    measured = sorted({verdict.signal for verdict in verdicts} - broken_off)
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended('ops.health', 0))")
        since = {
            (signal, subject): moment
            for signal, subject, moment in connection.execute(_UPSERT, {"rows": rows, "now": now}).fetchall()
        }
        connection.execute(
            "delete from ops.health where (signal = any(%s) or subject = %s) "
            "and (measured_at < %s or measured_at > %s)",
            (measured, _EVERYTHING, now, now + SPAN_GAP),
        )
        connection.execute(_SPANS, {"rows": rows, "now": now, "gap": SPAN_GAP})
    return [replace(verdict, since=since[verdict.signal, verdict.subject]) for verdict in verdicts]


_GIVEN = """
with given as (
    select * from jsonb_to_recordset(%(rows)s) as (
        signal text, subject text, verdict text, value float8, limit_value float8, unit text, message text,
        action text, observed jsonb
    )
)
"""
_UPSERT = (
    _GIVEN
    + """
insert into ops.health as h (
    signal, subject, verdict, value, limit_value, unit, since, measured_at, message, action, observed
)
select signal, subject, verdict, value, limit_value, unit, %(now)s, %(now)s, message, action, observed
from given
on conflict (signal, subject) do update set (
    verdict, value, limit_value, unit, since, measured_at, message, action, observed
) = (
    excluded.verdict, excluded.value, excluded.limit_value, excluded.unit,
    case when h.verdict = excluded.verdict then least(h.since, excluded.since) else excluded.since end,
    excluded.measured_at,
    excluded.message, excluded.action, excluded.observed
)
returning signal, subject, since
"""
).encode()
_SPANS = (
    _GIVEN
    + """
, last as (
    select g.signal, g.subject, g.verdict, s.since
    from given g left join lateral (
        select since, until, verdict from ops.health_span s
        where (s.signal, s.subject) = (g.signal, g.subject) and since <= %(now)s order by since desc limit 1
    ) s on s.verdict = g.verdict and s.until >= %(now)s - %(gap)s
)
insert into ops.health_span as span (signal, subject, since, until, verdict)
select signal, subject, coalesce(since, %(now)s), %(now)s, verdict from last
on conflict (signal, subject, since) do update set until = greatest(span.until, excluded.until)
where span.verdict = excluded.verdict
"""
).encode()


def _measured(signal: Signal, watch: Watch) -> Iterator[Verdict]:
    """A signal that breaks off keeps what it has said, and is unknown from there on."""
    said = iter(_guarded(signal.measure, watch))
    for verdict in said:
        if isinstance(verdict, Exception):
            reason = _told(watch, verdict)
            yield Verdict(
                signal.name,
                _EVERYTHING,
                State.UNKNOWN,
                watch.now,
                message=f"{signal.name} could not be measured: {reason}.",
                action="See what cannot be reached: python -m flows doctor",
            )
        else:
            yield replace(verdict, action=verdict.action or signal.action)


def _guarded(measure: Callable[[Watch], Iterable[Verdict]], watch: Watch) -> Iterator[Verdict | Exception]:
    try:
        yield from measure(watch)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other signals are measured
        yield error


def _told(watch: Watch, error: Exception) -> str:
    return watch.services.settings.scrub(scrub(str(error) or type(error).__name__))


def _away(now: datetime, error: WarehouseError) -> Verdict:
    start = "Start PostgreSQL, or correct ANALYTICS_WAREHOUSE_DSN: python -m flows doctor"
    return Verdict(
        storage.WAREHOUSE,
        storage.WAREHOUSE,
        State.CRITICAL,
        now,
        message=f"The warehouse can't be asked, so nothing is known of it. {error}",
        action=PLACE_TO_DO if isinstance(error, NoPlace) else start,
    )


def _row(verdict: Verdict) -> dict[str, Any]:
    return {
        "signal": verdict.signal,
        "subject": verdict.subject,
        "verdict": verdict.state.value,
        "value": verdict.value,
        "limit_value": verdict.limit,
        "unit": verdict.unit,
        "message": readable(verdict.message),
        "action": readable(verdict.action),
        "observed": dict(verdict.observed),
    }


__all__ = ["BY_NAME", "SIGNALS", "check_pipeline_health", "record"]

"""What was kept of a promise in some time: minutes of ops.health_span and ops.incident, rows of
ops.check_result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection

SIGNAL = "sla_burn"

# Minutes as sets of time: a span covers whole minutes, its first to its last. What is told twice counts once,
# and the worse of it. Multiranges do the arithmetic.
FRESHNESS = """
with minutes as (
    select subject, verdict, tstzrange(date_trunc('minute', since),
        date_trunc('minute', until) + interval '1 minute') * tstzrange(%(since)s, %(until)s) as span
    from ops.health_span
    where signal = 'data_freshness' and until >= %(since)s::timestamptz - interval '1 minute'
        and since < %(until)s
),
sets as (
    select subject,
        coalesce(range_agg(span) filter (where verdict = 'ok'), '{}') as good,
        coalesce(range_agg(span) filter (where verdict in ('warning', 'critical')), '{}') as bad
    from minutes group by subject
)
select subject,
    (select sum(extract(epoch from upper(part) - lower(part))) / 60 from unnest(good - bad) as part),
    (select sum(extract(epoch from upper(part) - lower(part))) / 60 from unnest(bad) as part)
from sets order by subject
"""
UPTIME = """
with sets as (
    select
        coalesce((select range_agg(tstzrange(date_trunc('minute', since),
                date_trunc('minute', until) + interval '1 minute') * tstzrange(%(since)s, %(until)s))
            from ops.health_span
            where until >= %(since)s::timestamptz - interval '1 minute' and since < %(until)s
        ), '{}') as measured,
        coalesce((select range_agg(tstzrange(date_trunc('minute', coalesce(severity_since, opened_at)),
                date_trunc('minute', coalesce(resolved_at, %(until)s) + interval '59.999999 seconds'))
                * tstzrange(%(since)s, %(until)s))
            from ops.incident
            where severity = 'critical' and signal <> all(%(own)s) and opened_at < %(until)s
                and coalesce(resolved_at, %(until)s) > %(since)s), '{}') as bad
)
select
    (select sum(extract(epoch from upper(part) - lower(part))) / 60 from unnest(measured - bad) as part),
    (select sum(extract(epoch from upper(part) - lower(part))) / 60 from unnest(bad) as part)
from sets
"""
# A check of some content has a result for each rule. Rows that break several rules at once are in
# observed.broken_rows of each of them, once; what breaks one alone is in failing_rows.
_CHECKS = """
with checks as (
    select run_id, table_name, checked_at, max((observed ->> 'rows')::bigint) as checked,
        coalesce(max((observed ->> 'broken_rows')::bigint), 0)
            + coalesce(sum(failing_rows) filter (where not observed ? 'broken_rows'), 0) as broken
    from ops.check_result
    where engine = 'duckdb' and observed ? 'rows' and checked_at > %(since)s and checked_at <= %(until)s
    group by run_id, table_name, checked_at
)
"""
QUALITY = f"{_CHECKS}select sum(checked - least(checked, broken)), sum(least(checked, broken)) from checks\n"
_BROKEN = f"{_CHECKS}select distinct table_name from checks where broken > 0\n"
OWN = [SIGNAL, "alert_channel"]
"""Signals about the keeping of promises, not about the data: they do not break what they measure."""


@dataclass(frozen=True)
class Kept:
    """What was kept of a promise in some time: good and bad, in the unit of the objective."""

    good: float
    bad: float
    whole: float
    """All there is in that time, measured or not: minutes, of each table; of rows those that were checked."""

    @property
    def measured(self) -> float:
        return self.good + self.bad

    @property
    def share(self) -> float | None:
        """Good ÷ measured; None where nothing was."""
        return self.good / self.measured if self.measured else None


def kept_of(connection: Connection[Any], name: str, since: datetime, until: datetime) -> Kept:
    """What was kept in [since, until) of `freshness`, `uptime` or `quality`."""
    given = {"since": since, "until": until, "own": OWN}
    if name == "freshness":
        found = [kept for _, kept in by_table(connection, since, until)]
        return Kept(
            sum(kept.good for kept in found),
            sum(kept.bad for kept in found),
            sum(kept.whole for kept in found),
        )
    query = UPTIME if name == "uptime" else QUALITY
    row = connection.execute(query.encode(), given).fetchone()
    assert row is not None
    good, bad = float(row[0] or 0), float(row[1] or 0)
    return Kept(good, bad, good + bad if name == "quality" else (until - since) / timedelta(minutes=1))


def by_table(connection: Connection[Any], since: datetime, until: datetime) -> Iterable[tuple[str, Kept]]:
    """Minutes of each table in which it was within its freshness SLA, and in which it was not."""
    rows = connection.execute(FRESHNESS.encode(), {"since": since, "until": until}).fetchall()
    whole = (until - since) / timedelta(minutes=1)
    return [(row[0], Kept(float(row[1] or 0), float(row[2] or 0), whole)) for row in rows]


def broken_tables(connection: Connection[Any], since: datetime, until: datetime) -> frozenset[str]:
    """The tables of which rows broke a rule in that time."""
    rows = connection.execute(_BROKEN.encode(), {"since": since, "until": until}).fetchall()
    return frozenset(name for (name,) in rows)

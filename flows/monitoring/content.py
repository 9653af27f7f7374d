"""row_count, null_rate, distribution_drift: is what was published like what was published before?

Figures come from ops.partition_profile, which a run fills at its end. Judged is the newest day that was over
when it was looked at: a backfill of an old day changes what is usual and is itself no anomaly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta

from flows.monitoring.freshness import as_of
from flows.monitoring.profiles import Day
from flows.monitoring.verdict import State, Verdict
from flows.monitoring.watch import Watch
from quality.monitors import (
    SENSITIVITIES,
    Judged,
    Numbers,
    Sensitivity,
    Share,
    Shares,
    Volumes,
    drift,
    judge_change,
    judge_share,
)
from transforms import registry
from transforms.contract import Table, Write

ROWS, NULLS, DRIFT = "row_count", "null_rate", "distribution_drift"
SETTLES_WITHIN = timedelta(hours=1)
"""Events of a day, or of an hour, that come later than this after its end are late ones."""
_LEAST_ROWS_AN_HOUR = 50
"""A table with fewer rows in most hours has no figures by the hour."""
_JUDGED_WITHIN = timedelta(days=3)
"""Older days are not judged any more."""
_FIRST_LOOK_WITHIN = timedelta(days=3)
_DAY = timedelta(days=1)
_NOT_JUDGED = {"judged": False, "why": "too few days before it say what is usual"}


def row_counts(watch: Watch) -> Iterator[Verdict]:
    """Each published table that has days: rows of the newest whole day, and of its hours since; of a table
    without windows how it grew.
    """
    for table, days in _profiled(watch):
        sensitivity = _sensitivity(table)
        if table.partition is None:
            yield from _grown(watch, table, days, sensitivity)
            continue
        until = as_of(watch, table)
        last = _newest(days, until, watch.now)
        counts = {day.day: day.rows for day in days}
        if until is None or last is None or not _is_daily(days, _empty_since(counts, last)):
            continue
        if last not in counts and _waits(watch, table, last):
            continue  # it is there, and its run has not looked at it yet
        by_hour = {
            datetime.combine(day.day, time(int(hour)), UTC): count
            for day in days
            for hour, count in day.hours.items()
        }
        volumes = Volumes(counts, by_hour)
        of, whole = _whole(volumes, counts, last, sensitivity)
        told: dict[str, Judged | None] = {f"{of}": whole}
        for hour, judged in _hours(volumes, by_hour, last, until, sensitivity).items():
            # Of a day that is unusual as a whole its hours tell nothing more.
            if hour.date() > last or not (whole and whole.is_unusual):
                told[f"{hour:%Y-%m-%d %H:%M}"] = judged
        yield _rows_verdict(watch, table, told, counts.get(last, 0), "since" if of < last else "of")


def null_rates(watch: Watch) -> Iterator[Verdict]:
    """Each column that may be null (`table.column`): the share of nulls on the newest whole day."""
    for table, last, history in _of_days(watch):
        for name, seen in sorted(last.columns.items()):
            if "nulls" not in seen:
                continue
            today = Share(last.day, int(seen["nulls"]), last.rows)
            before = [
                Share(day.day, int(day.columns[name]["nulls"]), day.rows)
                for day in history
                if "nulls" in day.columns.get(name, {})
            ]
            judged = judge_share(before, today, _sensitivity(table))
            text = "{:.1%} of its rows of {} have none; {:.1%} is usual"
            yield _verdict(watch, NULLS, f"{table.name}.{name}", judged, today.rate, "ratio", last.day, text)


def distributions(watch: Watch) -> Iterator[Verdict]:
    """Each column of few values, and each amount: how far the newest whole day is from the usual one."""
    for table, last, history in _of_days(watch):
        for name, seen in sorted(last.columns.items()):
            judged = _drifted(name, last, history, _sensitivity(table))
            if judged is None and not {"values", "quantiles"} & seen.keys():
                continue
            text = "the distribution of its values on {1} is {0:.2f} from the usual one; {2:.2f} is ordinary"
            value = judged.value if judged else None
            yield _verdict(watch, DRIFT, f"{table.name}.{name}", judged, value, "distance", last.day, text)


def _drifted(name: str, last: Day, history: Sequence[Day], sensitivity: Sensitivity) -> Judged | None:
    seen = last.columns[name]
    if "values" in seen:
        shares = [
            Shares(day.day, day.columns[name]["values"])
            for day in history
            if "values" in day.columns.get(name, {})
        ]
        return drift(shares, Shares(last.day, seen["values"]), sensitivity)
    if seen.get("quantiles"):
        numbers = [
            Numbers(day.day, tuple(day.columns[name]["quantiles"]))
            for day in history
            if day.columns.get(name, {}).get("quantiles")
        ]
        return drift(numbers, Numbers(last.day, tuple(seen["quantiles"])), sensitivity)
    return None


def _profiled(watch: Watch) -> Iterator[tuple[Table, list[Day]]]:
    """Each published table that was looked at, with its days, oldest first."""
    for table in registry.build_order():
        if table.is_published and table.name in watch.profiles:
            yield table, list(watch.profiles[table.name].values())


def _of_days(watch: Watch) -> Iterator[tuple[Table, Day, list[Day]]]:
    """Each table whose newest whole day was looked at, with the days before it.

    Of a table whose rows change later, only days that were looked at when they were as young.
    """
    for table, days in _profiled(watch):
        until = as_of(watch, table)
        last = _newest(days, until, watch.now) if table.partition is not None else days[-1].day
        by_day = {day.day: day for day in days}
        if last is None or last not in by_day or _is_old(watch, last):
            continue
        is_young = table.partition is None or table.write is Write.APPEND
        history = [
            day
            for day in days
            if day.day < last and (is_young or day.columns_at - _end(day.day) < _FIRST_LOOK_WITHIN)
        ]
        yield table, by_day[last], history


def _is_old(watch: Watch, day: date) -> bool:
    return watch.now.date() - day > _JUDGED_WITHIN


def _newest(days: Sequence[Day], until: datetime | None, now: datetime) -> date | None:
    """The last day that was over, and had settled, at the moment that its table tells of; None for an old
    one. It may have no rows.
    """
    if until is None:
        return None
    last = (until - SETTLES_WITHIN).astimezone(UTC).date() - timedelta(days=1)
    return last if now.date() - last <= _JUDGED_WITHIN and last >= days[0].day else None


def _waits(watch: Watch, table: Table, day: date) -> bool:
    """Whether a partition with rows that holds this day was published and not looked at."""
    assert table.partition is not None
    return bool(
        watch.rows(
            "select 1 from ops.partition_state s where (table_name, partition) = (%s, %s) and row_count > 0 "
            "and not exists (select from ops.partition_profile p "
            "where (p.table_name, p.partition, p.token) = (s.table_name, s.partition, s.token))",
            table.name,
            table.partition.key(day),
        )
    )


def _is_daily(days: Sequence[Day], last: date) -> bool:
    """Whether most days of the two weeks before have rows: a table by month has none on most."""
    span = min(14, (last - days[0].day).days)
    there = {day.day for day in days if day.rows}
    recent = [last - timedelta(days=number) for number in range(1, span + 1)]
    return span > 0 and sum(day in there for day in recent) > span / 2


def _empty_since(counts: Mapping[date, int], last: date) -> date:
    """The first of the days without a row up to this one; this one, if it has rows."""
    full = [day for day, rows in counts.items() if rows and day <= last]
    return min(last, max(full) + _DAY) if full else last


def _whole(
    volumes: Volumes, counts: Mapping[date, int], last: date, sensitivity: Sensitivity
) -> tuple[date, Judged | None]:
    """How the newest whole day is. Of one without a row, how the first day was, of all that have none since,
    on which that was unusual: what has stopped is not over because it lasts.
    """
    day = _empty_since(counts, last)
    while day < last:
        judged = volumes.day(day, sensitivity)
        if judged and judged.is_unusual:
            return day, judged
        day += _DAY
    return last, volumes.day(last, sensitivity)


def _hours(
    volumes: Volumes,
    by_hour: Mapping[datetime, int],
    last: date,
    until: datetime,
    sensitivity: Sensitivity,
) -> dict[datetime, Judged | None]:
    """The hours of the newest whole day, and those since that had settled."""
    days = {moment.date() for moment in by_hour}
    if not by_hour or sum(by_hour.values()) < _LEAST_ROWS_AN_HOUR * 24 * len(days):
        return {}
    end = until - SETTLES_WITHIN
    hour = datetime.combine(last, time(), UTC)
    found = {}
    while hour + timedelta(hours=1) <= end:
        found[hour] = volumes.hour(hour, sensitivity)
        hour += timedelta(hours=1)
    return found


def _rows_verdict(
    watch: Watch, table: Table, told: Mapping[str, Judged | None], rows: int, of: str
) -> Verdict:
    unusual = {when: judged for when, judged in told.items() if judged and judged.is_unusual}
    when, judged = next(iter(unusual.items() or told.items()))
    if judged is None:
        return watch.says(ROWS, table.name, rows, None, "rows", observed={**_NOT_JUDGED, "of": when})
    message = ""
    if unusual:
        more = f", and {len(unusual) - 1} more hours" if len(unusual) > 1 else ""
        message = (
            f"{table.name} has {judged.value:,.0f} rows {of} {when}{more}; "
            f"about {judged.expected:,.0f} are usual."
        )
    return watch.says(
        ROWS,
        table.name,
        judged.value,
        judged.limit,
        "rows",
        state=State.WARNING if unusual else State.OK,
        message=message,
        observed={"of": when, "expected": round(judged.expected), "unusual": sorted(unusual)},
    )


def _grown(watch: Watch, table: Table, days: Sequence[Day], sensitivity: Sensitivity) -> Iterator[Verdict]:
    last, before = days[-1], days[:-1]
    if _is_old(watch, last.day):
        return
    judged = judge_change([day.rows for day in before], last.rows, sensitivity)
    text = "it has {0:,.0f} rows since {1}; about {2:,.0f} would be usual"
    yield _verdict(watch, ROWS, table.name, judged, last.rows, "rows", last.day, text)


def _verdict(
    watch: Watch,
    signal: str,
    subject: str,
    judged: Judged | None,
    value: float | None,
    unit: str,
    day: date,
    text: str,
) -> Verdict:
    """`text` is given the value, the day and what is usual."""
    if judged is None:
        return watch.says(signal, subject, value, None, unit, observed={**_NOT_JUDGED, "of": f"{day}"})
    is_bad = judged.is_unusual
    return watch.says(
        signal,
        subject,
        judged.value,
        judged.limit,
        unit,
        state=State.WARNING if is_bad else State.OK,
        message=f"{subject}: {text.format(judged.value, day, judged.expected)}." if is_bad else "",
        observed={"of": f"{day}", "expected": judged.expected},
    )


def _sensitivity(table: Table) -> Sensitivity:
    return SENSITIVITIES[table.sensitivity]


def _end(day: date) -> datetime:
    return datetime.combine(day, time(), UTC) + timedelta(days=1)

"""duplicate_rate, dead_letters: how much of what arrived was a copy, and how much could not be read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from flows.counted import counted
from flows.monitoring.verdict import State, Verdict
from flows.monitoring.watch import Watch
from quality.monitors import SENSITIVITIES, Share, judge_share
from transforms import registry
from transforms.contract import Layer, Table, Write
from transforms.entities import Kafka

COPIES, LETTERS = "duplicate_rate", "dead_letters"
MOST_LETTERS, FAR_TOO_MANY_LETTERS = 0.02, 0.20
"""Shares of what arrived in a day that may be dead letters: above, a warning; above, critical."""
_FEWEST_LETTERS = 10
"""Fewer in a day than this are looked at by `dlq list`, not by an alert."""
_REMEMBERED = timedelta(days=56)
_SETTLED_AFTER = timedelta(days=1)
"""A day is judged once the next one is over: messages come late."""


def duplicates(watch: Watch) -> Iterator[Verdict]:
    """Each topic: the share of its records of the newest settled day that are copies of others, as landed
    rows against those of the staging model. Each published table: copies of its key, as the last check saw
    them.
    """
    for entity in registry.entities():
        staging = _staging_of(entity.table) if isinstance(entity.read, Kafka) else None
        if staging is not None:
            yield from _copies(watch, entity.table, staging)
    yield from _broken_keys(watch)


def dead_letters(watch: Watch) -> Iterator[Verdict]:
    """Each source entity: what could not be read in the last 24 hours, as a share of what arrived."""
    since = watch.now - timedelta(days=1)
    letters = {
        (source, name): (int(recent), int(waiting))
        for source, name, recent, waiting in watch.rows(
            "select source, entity, count(*) filter (where received_at > %s), count(*) from ops.dead_letter "
            "where status = 'waiting' group by 1, 2",
            since,
        )
    }
    landed = dict(
        watch.rows(
            "select table_name, sum(row_count)::bigint from ops.ledger "
            "where kind = 'land' and landed_at > %s group by 1",
            since,
        )
    )
    for entity in registry.entities():
        recent, waiting = letters.get((entity.source, entity.name), (0, 0))
        share = recent / max(1, recent, landed.get(entity.table, 0))
        state = State.OK
        if recent >= _FEWEST_LETTERS and share > MOST_LETTERS:
            state = State.CRITICAL if share > FAR_TOO_MANY_LETTERS else State.WARNING
        name = f"{entity.source}.{entity.name}"
        yield watch.says(
            LETTERS,
            f"source:{entity.table}",
            share,
            MOST_LETTERS,
            "ratio",
            state=state,
            message=""
            if state is State.OK
            else f"{counted(recent, 'record')} of {name} can't be read, {share:.1%} of what came in a day.",
            action=f"See why: python -m flows dlq list --entity {name}",
            observed={"in_a_day": recent, "waiting": waiting},
        )


def _copies(watch: Watch, raw: str, staging: Table) -> Iterator[Verdict]:
    newest = (watch.now - _SETTLED_AFTER).date() - timedelta(days=1)
    rows = watch.rows(
        "select s.partition::date, s.row_count, w.row_count, "
        "(select count(*) from ops.stream_batch b where b.entity = w.table_name "
        "and b.windows ? w.landed_window) "
        "from ops.partition_state s join ops.landed_window w on w.landed_window = s.partition "
        "where s.table_name = %s and w.table_name = %s and s.partition <> '' "
        "and s.partition between %s and %s order by 1",
        staging.name,
        raw,
        (newest - _REMEMBERED).isoformat(),
        newest.isoformat(),
    )
    shares = [Share(day, max(0, landed - kept), landed) for day, kept, landed, open_ in rows if not open_]
    if not shares or shares[-1].day < newest - timedelta(days=2):
        return
    last = shares[-1]
    judged = judge_share(shares[:-1], last, SENSITIVITIES[staging.sensitivity])
    is_bad = judged is not None and judged.is_unusual
    yield watch.says(
        COPIES,
        f"source:{raw}",
        last.rate,
        judged.high if judged else None,
        "ratio",
        state=State.WARNING if is_bad else State.OK,
        message=f"{last.rate:.1%} of the records of {raw} of {last.day} are copies or can't be read; "
        f"{judged.expected:.1%} is usual."
        if judged and is_bad
        else "",
        observed={"of": f"{last.day}", "rows": last.whole} | ({} if judged else {"judged": False}),
    )


def _broken_keys(watch: Watch) -> Iterator[Verdict]:
    """A key that is not unique is not published; where it became so later, the check after it says so."""
    rows = watch.rows(
        "select distinct on (table_name, rule) table_name, rule, failing_rows, passed from ops.check_result "
        "where kind = 'uniqueness' and engine = 'great_expectations' and checked_at > %s "
        "order by table_name, rule, checked_at desc",
        watch.now - _REMEMBERED,
    )
    worst: dict[str, tuple[str, int]] = {}
    for table, rule, failing, passed in rows:
        found = (rule, 0 if passed else max(1, int(failing)))
        worst[table] = max(worst.get(table, found), found, key=lambda one: one[1])
    for table, (rule, failing) in sorted(worst.items()):
        yield watch.says(
            COPIES,
            table,
            float(failing),
            0.0,
            "rows",
            state=State.CRITICAL if failing else State.OK,
            message=f"{table} has {counted(failing, 'row')} whose key another row has too (rule {rule})."
            if failing
            else "",
            action=f"Make it right again: python -m flows rebuild {table}",
        )


def _staging_of(raw: str) -> Table | None:
    """The staging model that keeps one copy of each record; windows of both are the same days."""
    return next(
        (
            table
            for table in registry.build_order()
            if table.layer is Layer.STAGING
            and table.upstreams == (raw,)
            and table.write is Write.APPEND
            and table.partition is not None
            and table.partition.every == "day"
        ),
        None,
    )

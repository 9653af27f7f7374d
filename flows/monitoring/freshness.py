"""data_freshness, missing_run: is everything published as soon after it landed, or was due, as declared?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from flows.change_topics import of as read_by_changes
from flows.durations import spoken
from flows.errors import FlowsError
from flows.flow_names import BATCH, BY_HAND, OF_SOURCES, STREAM, reads
from flows.monitoring import schedules
from flows.monitoring.runs import Run
from flows.monitoring.verdict import State, Verdict
from flows.monitoring.watch import Watch
from flows.streaming.route import whole_route
from flows.streaming.shown_live import shown_live
from quality.published import raw_ancestors
from quality.rulebook import PUBLISHED_WITHIN
from transforms import registry
from transforms.contract import Table

FRESHNESS, MISSING = "data_freshness", "missing_run"
REAL_TIME = timedelta(minutes=1)
"""What the stream takes in is seen within this."""
CRITICAL_AFTER = timedelta(hours=2)
"""Past its due time; where more than an hour is declared, an hour after that."""
STARTS_WITHIN = timedelta(minutes=10)
"""How long after its time a deployment may start: a worker may be busy with the one before."""
UNSCHEDULED = timedelta(days=1)
"""What no schedule of Prefect brings is due again so long after a run that brought it began: whatever else
runs the batch (cron, a person) has to do it as often as the deployment `daily` would.
"""


def freshness(watch: Watch) -> Iterator[Verdict]:
    """Each source entity (`source:raw_…`) and each published table: seconds since it was due and not done.

    Due is what a run was to do and did not: from the start of the oldest such run, or from the time at which
    a schedule was to start one. What one flow alone brings and no schedule starts is due a day after that
    flow's last run that did it, and a warning at most while somebody has paused the batch, or has switched it
    on and its first time is to come. What somebody's lock keeps from being seen is due since then. While a
    stream takes a table in, it is also late by what the stream is behind. Nothing scans a table.
    """
    held = dict(
        watch.rows(
            "select table_name, max(extract(epoch from clock_timestamp() - since))::float8 "
            "from ops.pending_publish group by 1"
        )
    )
    live = _live(watch)
    for entity in registry.entities():
        yield _late(watch, f"source:{entity.table}", entity.table, PUBLISHED_WITHIN, {entity.table})
    for table in registry.build_order():
        if not table.is_published:
            continue
        late = _late(watch, table.name, table.name, table.freshness or PUBLISHED_WITHIN, _raw(table))
        yield _worst([*_held(late, held), late, *_behind(watch, late, live)])


def missing_runs(watch: Watch) -> Iterator[Verdict]:
    """Each deployment with a schedule: seconds since it was to start and did not, nor had its work done by a
    run of somebody else. What was to start before its schedule was on is nobody's. Raises FlowsError while
    Prefect can't be asked.
    """
    switched, settings = watch.schedules, watch.services.settings
    if switched.problem:
        raise FlowsError(switched.problem)
    now = schedules.machine_time(settings)
    for deployment in schedules.declared():
        subject, limit = f"deployment:{deployment.name}", STARTS_WITHIN.total_seconds()
        found = switched.on.get(deployment.name)
        if found is None:
            off = watch.says(MISSING, subject, 0.0, limit, "s", observed={"schedule": "off"})
            yield _by_age(watch, off) if deployment.flow == BATCH else off
            continue
        due = found.last_until(now - STARTS_WITHIN)
        times = {"on_since": found.since, "due": due}
        observed = {name: moment.isoformat() for name, moment in times.items() if moment}
        if (
            due is None
            or _is_done(watch, found.flow, schedules.world_time(settings, due))
            or schedules.started(settings, found, due)
        ):
            yield watch.says(MISSING, subject, 0.0, limit, "s", observed=observed)
            continue
        late = (now - due).total_seconds()
        yield watch.says(
            MISSING,
            subject,
            late,
            limit,
            "s",
            state=State.CRITICAL if late > CRITICAL_AFTER.total_seconds() else State.WARNING,
            message=f"Deployment {deployment.name} was to run at {due:%Y-%m-%d %H:%M} UTC and did not start.",
            action=f"See whether a worker runs (prefect worker start --pool {shlex.quote(found.pool)}). "
            f"Meanwhile {_by_hand(deployment)} does its work, and ends this; is it not wanted, pause its "
            "schedule.",
            observed=observed,
        )


def _is_done(watch: Watch, flow: str, since: datetime) -> bool:
    """Whether ops.run has a run that did the work of a flow and was at it at that moment or later, whoever
    started it: with the same flow, or with one that does all of that and more.
    """
    if flow == STREAM:
        return any(stream.is_there for stream in watch.streams.values())
    return any(
        run.ended_at >= since
        and (
            run.flow in (flow, BATCH) and not run.is_narrowed
            if flow in OF_SOURCES
            else flow in run.done | run.undone
        )
        for run in watch.every_run
    )


def _by_hand(deployment: schedules.Deployment) -> str:
    return BY_HAND.get(deployment.flow, f"prefect deployment run {deployment.flow}/{deployment.name}")


def _by_age(watch: Watch, off: Verdict) -> Verdict:
    """The batch, which no schedule starts: seconds since it was to be run again and was not."""
    last = next((run.started_at for run in watch.runs if run.flow == BATCH and not run.is_narrowed), None)
    late = (watch.now - last - UNSCHEDULED).total_seconds() if last else 0.0
    if last is None or late <= PUBLISHED_WITHIN.total_seconds():
        return off
    is_paused = watch.schedules.is_paused(BATCH)
    why = "its schedule is paused" if is_paused else "Prefect has no schedule for it"
    is_critical = not is_paused and late > CRITICAL_AFTER.total_seconds()
    return replace(
        off,
        value=late,
        state=State.CRITICAL if is_critical else State.WARNING,
        message=f"The batch did not run since {last:%Y-%m-%d %H:%M} UTC: {why}, and nothing else ran it.",
        action="Run it (python -m flows), and have it run each day: resume or deploy `daily`, or mend the "
        "cron that does.",
    )


def as_of(watch: Watch, table: Table) -> datetime | None:
    """Up to when a published table tells of what happened: the start of the last run that has done it."""
    return _due(watch, table.name, _raw(table)).last


def _raw(table: Table) -> Set[str]:
    return {*raw_ancestors(table, registry.tables())}


def _flows(raw: Set[str]) -> list[str]:
    """The flows that bring news to what is made of these. The batch builds what is made of no source too."""
    return [flow for flow in OF_SOURCES if flow == BATCH or _reads(flow) & raw]


def _reads(flow: str) -> set[str]:
    return {entity.table for entity in reads(flow)}


@dataclass(frozen=True)
class _Due:
    """Of one table: since when it is due and not done, and the start of the last run that has done it; None
    where there is no such time. `is_by_age`: no schedule says so, and no run has left it undone.
    """

    since: datetime | None
    last: datetime | None
    is_by_age: bool


def _due(watch: Watch, name: str, raw: Set[str]) -> _Due:
    """Of a table that is made of these, or is one of them."""
    found: list[datetime] = []
    aged: list[datetime] = []
    last: datetime | None = None
    # What a run has left undone may have been made good by one that was about this table alone.
    mended = next((run.started_at for run in watch.runs if run.is_narrowed and name in run.done), None)
    done_by = [run for run in watch.runs if name in run.done and not run.is_narrowed]
    for flow in _flows(raw):
        # What a run of one source does, a run of all does too.
        serving = [run for run in watch.runs if run.flow in (flow, BATCH) and not run.is_narrowed]
        done = next((run.started_at for run in serving if _is_brought(run, done_by, name, raw)), None)
        last = max(filter(None, (last, done)), default=None)
        if done is None and not serving:
            continue
        since = max(filter(None, (done, mended)), default=None)
        undone = [run.started_at for run in serving if since is None or run.started_at > since]
        found += undone[-1:]
        begin = done or serving[-1].started_at
        for deployment in watch.schedules.of_flow(flow):
            machine = begin - watch.services.settings.clock_offset
            next_run = schedules.world_time(watch.services.settings, deployment.next_after(machine))
            if next_run <= watch.now:
                found.append(next_run)
        again = done + UNSCHEDULED if done is not None else None
        if again is not None and again <= watch.now and _is_by_age(watch, flow, raw, again):
            aged.append(again)
    since = min((*found, *aged), default=None)
    return _Due(since, last, is_by_age=since in aged and since not in found)


def _is_brought(run: Run, done_by: Sequence[Run], name: str, raw: Set[str]) -> bool:
    """Whether a run has done a table, or has landed all that a later one, which then did it, did not land."""
    lacking = raw - run.done
    return name in run.done or any(
        later.started_at > run.started_at and lacking <= later.done for later in done_by
    )


def _is_by_age(watch: Watch, flow: str, raw: Set[str], at: datetime) -> bool:
    """Whether a flow brings some of these that nothing with a schedule brought then, nor another flow
    without.
    """
    machine = at - watch.services.settings.clock_offset
    brought = (*watch.schedules.of_flow(flow), *watch.schedules.of_flow(BATCH))
    if any(one.since is None or one.since <= machine for one in brought):
        return False
    others = {table for other in OF_SOURCES if other != BATCH for table in _reads(other)}
    return flow != BATCH or not raw or bool(raw - others)


def _late(watch: Watch, subject: str, name: str, limit: timedelta, raw: Set[str]) -> Verdict:
    due = _due(watch, name, raw)
    since, last = due.since, due.last
    observed = {"as_of": last.isoformat() if last else None, "due": since.isoformat() if since else None}
    if since is None and last is None:
        return watch.says(
            FRESHNESS,
            subject,
            None,
            limit.total_seconds(),
            "s",
            state=State.UNKNOWN,
            message=f"No run here is known that brought {name}, so how fresh it is can't be said.",
            action="Run the batch: python -m flows",
            observed=observed,
        )
    late = max(0.0, (watch.now - since).total_seconds()) if since else 0.0
    state = _state(late, limit)
    if state is State.CRITICAL and due.is_by_age and _is_wanted(watch):
        state = State.WARNING
    message = "" if state is State.OK or since is None else _sentence(watch.runs, subject, name, since, last)
    return watch.says(
        FRESHNESS, subject, late, limit.total_seconds(), "s", state=state, message=message, observed=observed
    )


def _is_wanted(watch: Watch) -> bool:
    """Whether nothing has started the batch because somebody wants it so: its schedule is paused, which the
    batch's missing_run tells, or was switched on and its first time is to come.
    """
    now = schedules.machine_time(watch.services.settings)
    on = watch.schedules.of_flow(BATCH)
    return watch.schedules.is_paused(BATCH) or any(
        one.since is not None and one.next_after(one.since) > now for one in on
    )


def _sentence(runs: list[Run], subject: str, name: str, since: datetime, last: datetime | None) -> str:
    what = "was not landed" if subject.startswith("source:") else "was not published"
    why = "a run that was to do it did not" if any(run.started_at == since for run in runs) else "it was due"
    seen = f"; it is as it was at {last:%Y-%m-%d %H:%M} UTC" if last else ""
    return f"{name} {what}: {why} at {since:%Y-%m-%d %H:%M} UTC{seen}."


def _held(late: Verdict, held: dict[str, float]) -> Iterator[Verdict]:
    waits = held.get(late.subject)
    if waits is None or late.limit is None:
        return
    state = _state(waits, timedelta(seconds=late.limit))
    if state is State.OK:
        return
    yield replace(
        late,
        value=waits,
        state=state,
        message=f"{late.subject} is built and can't be shown: somebody's lock is in the way.",
        action="See who holds it: select * from ops.pending_publish; end that session if it should not wait.",
    )


def _live(watch: Watch) -> dict[str, str]:
    """Published table → the kind of stream that takes it in, or would if it had not died."""
    found: dict[str, str] = {}
    there = {kind for kind, stream in watch.streams.items() if not stream.is_over}
    entities = registry.entities()
    if "changes" in there:
        found |= {
            table.name: "changes" for table in shown_live(read_by_changes(entities)) if table.is_published
        }
    if "events" in there and (way := whole_route()) is not None:
        found |= {table.name: "events" for table in (*way.facts, *way.windows)}
    return found


def _behind(watch: Watch, late: Verdict, live: dict[str, str]) -> Iterator[Verdict]:
    kind = live.get(late.subject)
    if kind is None:
        return
    stream, limit = watch.streams[kind], REAL_TIME
    state = _state(stream.behind, limit)
    why = (
        f"what comes is seen after {spoken(stream.behind)}"
        if stream.is_there
        else f"the stream of {kind} has said nothing for {spoken(stream.age)}"
    )
    yield replace(
        late,
        value=stream.behind,
        limit=limit.total_seconds(),
        state=state,
        message="" if state is State.OK else f"{late.subject} is not up to the minute: {why}.",
        action="Start the stream: python -m flows stream, or its deployment. What was missed is made up for.",
        observed={**late.observed, "stream": kind},
    )


def _state(seconds: float, limit: timedelta) -> State:
    if seconds <= limit.total_seconds():
        return State.OK
    critical = max(CRITICAL_AFTER, limit + timedelta(hours=1)) if limit > REAL_TIME else CRITICAL_AFTER
    return State.CRITICAL if seconds > critical.total_seconds() else State.WARNING


_BADNESS = [State.OK, State.UNKNOWN, State.WARNING, State.CRITICAL]


def _worst(verdicts: list[Verdict]) -> Verdict:
    """The worst of several views of one table; of two alike the narrower limit says more, then the first."""
    return max(verdicts, key=lambda one: (_BADNESS.index(one.state), -(one.limit or 0.0)))

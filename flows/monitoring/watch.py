"""What the signals of one minute share: one session of PostgreSQL, one moment, what several of them ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any

from psycopg import Connection

from flows.flow_names import MENDING, OF_SOURCES
from flows.monitoring import runs, schedules
from flows.monitoring.profiles import Day, remembered
from flows.monitoring.verdict import State, Verdict
from flows.services import Services
from flows.stores.warehouse_errors import WarehouseError
from flows.streaming.tally import KIND, REPORTED_WITHIN


@dataclass
class Watch:
    """One look at everything. `now` is the world's time; what PostgreSQL stamps is held against its own."""

    services: Services
    now: datetime
    session: Connection[Any] | None
    """None while the warehouse is away: then only what does without it can be measured."""

    @property
    def connection(self) -> Connection[Any]:
        """The session of the warehouse. Raises WarehouseError while it is away."""
        if self.session is None:
            raise WarehouseError("The warehouse is away. Start it, or correct ANALYTICS_WAREHOUSE_DSN.")
        return self.session

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query of the ops tables."""
        return self.connection.execute(query.encode(), parameters or None).fetchall()

    def says(
        self, signal: str, subject: str, value: float | None, limit: float | None, unit: str, **more: Any
    ) -> Verdict:
        """A verdict of this moment; `state` is ok unless it is given, what else is given is the verdict's."""
        given = {"state": State.OK, "measured_at": self.now, **more}
        return Verdict(signal, subject, value=value, limit=limit, unit=unit, **given)

    @cached_property
    def prefect(self) -> schedules.Switched:
        """The deployments that run by themselves, as Prefect has them now."""
        return schedules.ask(self.services.settings)

    @cached_property
    def schedules(self) -> schedules.Switched:
        """The same, on since an earlier look has found them so."""
        seen = self.rows(
            "select subject, (observed ->> 'on_since')::timestamptz from ops.health "
            "where signal = 'missing_run' and observed ? 'on_since'"
        )
        return self.prefect.seen_before(
            {subject.removeprefix("deployment:"): since for subject, since in seen}
        )

    @cached_property
    def every_run(self) -> list[runs.Run]:
        """The runs of all flows, the newest first. One that began by a clock that was ahead has done nothing
        yet.
        """
        return [run for run in runs.recent(self.connection, self.now) if run.started_at <= self.now]

    @cached_property
    def runs(self) -> list[runs.Run]:
        """The runs of the batch, the newest first."""
        return [run for run in self.every_run if run.flow in (*OF_SOURCES, *MENDING)]

    @cached_property
    def profiles(self) -> Mapping[str, Mapping[date, Day]]:
        """Each published table that was looked at, with its days, oldest first."""
        return remembered(self.connection, self.now)

    @cached_property
    def streams(self) -> Mapping[str, Stream]:
        """What each kind of stream says of itself: `events`, `changes`; one that died, however long ago, and
        one that ended because it was to, for a day.
        """
        found: dict[str, Stream] = {}
        newest: dict[str, float] = {}
        for kind, age, is_over, rate, lag, worst in self.rows(
            f"select {KIND}, "
            "extract(epoch from clock_timestamp() - reported_at)::float8, ended_at is not null, "
            "messages_per_second, lag, worst_seconds from ops.stream_progress "
            "where ended_at is null or ended_at > clock_timestamp() - interval '1 day' "
            "order by reported_at desc"
        ):
            there = found.get(kind)
            is_of_now = age - newest.setdefault(kind, age) < REPORTED_WITHIN.total_seconds()
            if there is None or (there.is_over and not is_over and is_of_now):
                # Of several that ended at once one that died counts.
                found[kind] = Stream(age, rate, lag, worst, is_over)
            elif not is_over and age < REPORTED_WITHIN.total_seconds():
                # Several share the partitions of a topic.
                found[kind] = Stream(
                    there.age, there.rate + rate, there.lag + lag, max(there.worst_seconds, worst)
                )
        return found


@dataclass(frozen=True)
class Stream:
    """All processes of one kind together. `age`: seconds since the last word of any of them; `is_over`: the
    last of them ended because it was to.
    """

    age: float
    rate: float
    lag: int
    worst_seconds: float
    is_over: bool = False

    @property
    def is_there(self) -> bool:
        """Whether it lives."""
        return not self.is_over and self.age <= REPORTED_WITHIN.total_seconds()

    @property
    def behind(self) -> float:
        """Seconds that what readers see is behind what happened, as far as is known."""
        if not self.is_there:
            return self.age
        return self.worst_seconds if self.lag or self.rate else 0.0

"""What breaks is one message, of the right severity, about the right thing; so is its end. No more is told.

Each breakage is made at the thing itself and seen by the ordinary commands, one after the other in one place.
First of its folder by its name: what other tests break of the company would be told as well.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from flows import sandbox
from flows.sandbox import Part, processes
from flows.sandbox.postgres import packaged_binaries
from tests.flows.company import ROOT, Company, Place, with_models
from tests.house import House, Server

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

_CHANGED = "updated_at = (select max(updated_at) from users) + interval '1 second'"
"""By this a run finds the rows."""
_NOBODY = {
    **{f"ANALYTICS_{name}_URL": "http://127.0.0.1:1" for name in ("STRIPE", "SENDGRID")},
    **{f"ANALYTICS_{name}_KEY": "any" for name in ("STRIPE", "SENDGRID")},
}


@dataclass
class Watched:
    """A place with a PostgreSQL of its own, and the file in which its messages are."""

    place: Place
    server: Path
    """Folder of the sandbox of which nothing but that PostgreSQL runs."""
    messages: Path
    heard: int = 0
    stream: subprocess.Popen[str] | None = field(default=None, repr=False)

    def told(self) -> list[dict[str, Any]]:
        """The messages since the last time, but for news."""
        lines = self.messages.read_text(encoding="utf-8").splitlines() if self.messages.exists() else []
        new, self.heard = lines[self.heard :], len(lines)
        return [message for message in map(json.loads, new) if message["severity"] != "info"]

    def look(self) -> str:
        """A minute passes; gives what the monitor says."""
        return self.place.run("monitor").said

    def batch(self, *, ends: int = 0) -> None:
        """A run, which has to end with this code."""
        done = self.place.run()
        assert done.code == ends, done.said

    def let_a_week_pass(self) -> None:
        """Two critical ones within an hour would be told as such: the budget of 30 days burns."""
        times = "opened_at, since, severity_since, seen_at, good_since, resolved_at"
        week = ", ".join(f"{name} - interval '7 days'" for name in times.split(", "))
        self.place.rows(f"update ops.incident set ({times}) = row({week})")

    # ---------------------------------------------------------------------- what breaks, and how it is mended

    def nulls(self) -> None:
        self.place.application("create table plans as select id, plan from users")
        self.place.application(
            f"update users set plan = null, {_CHANGED} where id in (select id from users "
            "where deleted_at is null order by id limit (select count(*) * 3 / 10 from users))"
        )
        self.batch()

    def no_nulls(self) -> None:
        self.place.application(
            f"update users set plan = plans.plan, {_CHANGED} from plans where plans.id = users.id"
        )
        self.batch()

    def stop_the_apis(self) -> None:
        """Nobody listens where they were: those of the sandbox a run would start again."""
        self.place.environment |= _NOBODY
        self.batch(ends=1)
        assert self.place.hourly() == "Failed"

    def start_the_apis(self) -> None:
        for name in _NOBODY:
            del self.place.environment[name]
        self.batch()

    def drop_a_column(self) -> None:
        self.place.application("create table names as select id, name from suppliers")
        self.place.application("alter table suppliers drop column name")
        self.batch(ends=1)

    def bring_it_back(self) -> None:
        self.place.application("alter table suppliers add column name text")
        self.place.application(
            "update suppliers set name = names.name from names where names.id = suppliers.id"
        )
        # It is another one of that name, which is not taken for granted. The declarations are a copy.
        copied = with_models(self.place.lake.parent / "declared", {})
        done = self.place.command("schema", "diff", "suppliers", "--write", models=copied)
        assert done.code == 0, done.said
        self.batch()

    def drop_a_leaf(self) -> None:
        day = self.place.value(
            "select max(partition) from ops.partition_state where table_name = 'fct_events' "
            "and partition <> '' and row_count > 0"
        )
        self.place.rows(f"drop table analytics.fct_events_{day.replace('-', '_')}")

    def rebuild_it(self) -> None:
        done = self.place.run("rebuild", "fct_events")
        assert done.code == 0, done.said

    def kill_the_stream(self) -> None:
        self.start_the_stream()
        well = self.look()
        assert self.told() == [], well
        self.end_the_stream(signal.SIGKILL)
        self.place.rows("update ops.stream_progress set reported_at = reported_at - interval '2 minutes'")

    def start_the_stream(self) -> None:
        """Until it has told of itself once more. The application of this place is none that is captured."""
        begun = self.place.value("select clock_timestamp()")
        self.stream = self.place.spawn("stream", ANALYTICS_CDC_ENGINE="embedded")
        deadline = time.monotonic() + 120
        while not self.place.rows("select 1 from ops.stream_progress where reported_at > %s", begun):
            assert self.stream.poll() is None, self.stream.communicate()
            assert time.monotonic() < deadline, "the stream says nothing"
            time.sleep(0.2)

    def end_the_stream(self, by: signal.Signals = signal.SIGTERM) -> None:
        """Asked to, it says so and is not waited for."""
        if self.stream is not None:
            self.stream.send_signal(by)
            self.stream.communicate(timeout=60)
            self.stream = None

    def kill_postgres(self) -> None:
        known = sandbox.read(self.server)
        running = known.parts[Part.WAREHOUSE_POSTGRES].process if known else None
        assert running is not None
        processes.end(running, [(signal.SIGKILL, 10.0)])

    def start_postgres(self) -> None:
        sandbox.start(self.server, frozenset({Part.WAREHOUSE_POSTGRES}))


@pytest.fixture(scope="module")
def watched(company: Company, house: House) -> Iterator[Watched]:
    """The company's warehouse on a PostgreSQL of its own, fed by a copy of the application; two weeks are
    known of which each night was like the last, and the world's own broken records are known, too.
    """
    place, folder = company.copy(own_application=True), house.folder.with_name("breakable")
    state = sandbox.start(folder, frozenset({Part.WAREHOUSE_POSTGRES}))
    try:
        place = _moved(place, str(state.warehouse_dsn))
        messages = place.lake.parent / "messages.jsonl"
        alerts = place.lake.parent / "alerts.yaml"
        alerts.write_text(f"channels: {{log: 'file://{messages}'}}\nroutes: [{{channels: [log]}}]\n")
        place.environment["ANALYTICS_ALERTS"] = str(alerts)
        place.rows(
            "delete from ops.partition_profile as p where partition = '' and day < "
            "(select max(day) from ops.partition_profile where table_name = p.table_name)"
        )
        place.rows(
            "insert into ops.partition_profile (table_name, partition, day, token, profiled_at, row_count, "
            "hours, columns, columns_at) select table_name, partition, day - n, token, profiled_at, "
            "row_count, hours, columns, columns_at from ops.partition_profile, generate_series(1, 14) as n "
            "where partition = ''"
        )
        place.rows("update ops.dead_letter set status = 'discarded'")
        watched = Watched(place, folder, messages)
        well = watched.look()
        assert watched.told() == [], f"before anything breaks: {well}"
        try:
            yield watched
        finally:
            watched.end_the_stream(signal.SIGKILL)
    finally:
        sandbox.reset(folder)


def _moved(place: Place, server: str) -> Place:
    """The same place with its warehouse on another server; its roles come with the first database there."""
    to, programs = Server(18, server), packaged_binaries()
    to.database()
    dsn = to.empty()
    dump = subprocess.run([programs / "pg_dump", "-Fc", place.warehouse_dsn], check=True, capture_output=True)
    subprocess.run([programs / "pg_restore", "-d", dsn], input=dump.stdout, check=True, capture_output=True)
    place.environment["ANALYTICS_WAREHOUSE_DSN"] = dsn
    return replace(place, warehouse_dsn=dsn)


@dataclass(frozen=True)
class Breakage:
    """What is broken and mended, and what is to be told of it."""

    breaks: Callable[[Watched], None]
    mends: Callable[[Watched], None]
    severity: str
    signal: str
    """By which it is told, and the section of the runbook."""
    said: tuple[str, ...]
    """What the message says, as expressions."""
    after: Callable[[Watched], None] = lambda _: None
    """What is to be done so that the next one finds everything as it was."""


BREAKAGES = {
    "30 % of a column are null": Breakage(
        Watched.nulls,
        Watched.no_nulls,
        "warning",
        "null_rate",
        (
            r"^WARNING: dim_users_history\.plan: 3\d\.\d% of its rows",
            r"With it:  1 more: dim_users\.plan \(null_rate\)",
            r"Touches:  dim_users_history, mart_plan_revenue\n",
        ),
    ),
    "the APIs are stopped": Breakage(
        Watched.stop_the_apis,
        Watched.start_the_apis,
        "critical",
        "pipeline_failed",
        (r"^CRITICAL: .*(stripe|sendgrid)", r"Touches:  .*mart_revenue_reconciliation"),
    ),
    "a column of the application is dropped": Breakage(
        Watched.drop_a_column,
        Watched.bring_it_back,
        "critical",
        "schema_drift",
        (r"^CRITICAL: .*raw_app__suppliers.*name", r"To do: .*schema diff"),
    ),
    "a published partition is gone": Breakage(
        Watched.drop_a_leaf,
        Watched.rebuild_it,
        "critical",
        "schema_drift",
        (r"^CRITICAL: fct_events .*partitions are gone", r"To do: .*rebuild fct_events"),
    ),
    "the stream is killed": Breakage(
        Watched.kill_the_stream,
        Watched.start_the_stream,
        "warning",
        "stream_lag",
        (r"^WARNING: The stream of events has said nothing", r"To do: .*flows stream"),
        Watched.end_the_stream,
    ),
    "PostgreSQL is killed": Breakage(
        Watched.kill_postgres,
        Watched.start_postgres,
        "critical",
        "warehouse",
        (r"^CRITICAL: The warehouse is away", r"To do: .*sandbox start"),
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES.keys())
def test_what_breaks_is_told_once_by_its_name_and_so_is_its_end(watched: Watched, breakage: Breakage) -> None:
    breakage.breaks(watched)

    looks = [watched.look(), watched.look()]

    told = watched.told()
    assert [(one["severity"], one["kind"]) for one in told] == [(breakage.severity, "opened")], (told, looks)
    message = f"{told[0]['title']}\n{told[0]['body']}"
    assert [said for said in breakage.said if not re.search(said, message)] == [], message
    section = re.search(r"Runbook:  docs/runbook\.md#(\w+)", message)
    assert section is not None, message
    assert section[1] == breakage.signal
    assert f"\n## {breakage.signal}\n" in (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")

    breakage.mends(watched)
    looks = [watched.look(), watched.look()]

    ends = watched.told()
    assert [(one["kind"], one["incident"]) for one in ends] == [("resolved", told[0]["incident"])], (
        ends,
        looks,
    )
    assert watched.place.rows("select cause from ops.incident where resolved_at is null") == []
    breakage.after(watched)
    watched.let_a_week_pass()

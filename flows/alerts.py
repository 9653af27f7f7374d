"""Who is told when something is wrong: verdicts in, one message for each trouble out.

Nothing here fails a run: what goes wrong with telling is itself an incident, or a line of the log.
"""

from __future__ import annotations

import argparse
import getpass
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row

from flows.alerting import away, causes, delivery, ending, incidents, remembered, runs, settlement, words
from flows.alerting.incidents import Incident
from flows.alerting.killed import end_killed
from flows.alerting.late import end_late
from flows.alerting.routes import Routes, routes
from flows.durations import spoken
from flows.errors import FlowsError
from flows.logins import PLACE_TO_DO
from flows.monitoring.storage import WAREHOUSE
from flows.monitoring.verdict import State, Verdict
from flows.services import Services
from flows.stores import read_only
from flows.stores.warehouse_errors import NoPlace, OnlyReads, WarehouseError
from flows.summary import FAILED, Summary

_log = logging.getLogger("flows.alerts")


class NoIncident(FlowsError):
    """There is no open incident of that id."""


def send_alert(services: Services, verdicts: Sequence[Verdict]) -> None:
    """Open, add to, escalate and resolve incidents by these verdicts, and tell who is to be told.

    To be called every minute with all that was measured, good and bad; how the last runs ended and whether
    messages get through is added here. 1. incidents and the messages that they owe, in one transaction;
    2. what is owed is sent; 3. a channel that failed becomes an incident. Where the warehouse is away, or
    takes no writes, that is told, once. Raises AlertsError for a file of routes that can't be used,
    WarehouseError where the warehouse refuses or, once that is told, is away; never what a channel does.
    """

    def measured(connection: Connection[Any], now: datetime) -> list[Verdict]:
        # Who reads this here has reached it.
        there = Verdict(WAREHOUSE, WAREHOUSE, State.OK, now)
        end_killed(connection, services.settings, now)
        end_late(connection, services.settings, now)
        others = [verdict for verdict in verdicts if verdict.signal != WAREHOUSE]
        return [there, *others, *runs.verdicts(connection, now)]

    try:
        _settle(services, measured)
    except WarehouseError as error:
        if isinstance(error, OnlyReads):
            _tell_away(services, str(error), read_only.TO_DO)
        elif isinstance(error, NoPlace):
            _tell_away(services, str(error), PLACE_TO_DO)
        elif not _answers(services):
            _tell_away(services, f"The warehouse is away: {error}", away.START)
        # Else it refused something: what was never prepared has no tables to keep incidents in.
        raise


def _tell_away(services: Services, problem: str, action: str) -> None:
    settings, known = services.settings, routes(services.settings)
    away.away(settings.lake_root, known, problem, action, settings.now(), _hidden(services, known))


def _answers(services: Services) -> bool:
    try:
        with services.warehouse.connect() as connection:
            connection.execute("select 1")
    except WarehouseError:
        return False
    return True


def run_ended(services: Services, summary: Summary) -> None:
    """Tell how a run ended: at once when it failed, with why where that is known, as news when it completed
    or somebody has cancelled it.
    Never raises: the run is what it is.
    """
    why: Sequence[Verdict] = ()

    def told(connection: Connection[Any], now: datetime) -> list[Verdict]:
        if summary.state not in FAILED:
            _news(services, connection, *runs.ended_well(summary), now)
        return [*why, *runs.verdicts(connection, now)]

    try:
        if summary.state in FAILED:
            why = _why(services)
        _settle(services, told)
    except Exception as error:  # noqa: BLE001 - telling of a run must not change how it ended
        _log.warning(
            "The end of the run could not be told: %s", words.scrubbed(str(error), _hidden(services))
        )


def report_flow_run(services: Services, run: runs.Reported) -> None:
    """Tell of a run that could not tell it itself."""
    why = _why(services) if run.state in FAILED else ()

    def noted(connection: Connection[Any], now: datetime) -> list[Verdict]:
        runs.note(connection, run)
        return [*why, *runs.verdicts(connection, now)]

    _settle(services, noted)


def send_news(services: Services, title: str, body: str, html: str = "", *, occasion: str = "") -> list[str]:
    """Tell something to everybody who is told of `info`; returns the names of the channels. `html` is the
    same as a page, for channels that are e-mail; of an `occasion` each of them is told once.
    """

    def told(connection: Connection[Any], now: datetime) -> list[Verdict]:
        _news(services, connection, title, body, now, html=html, occasion=occasion)
        return []

    _settle(services, told)
    return routes(services.settings).to("info")


def _why(services: Services) -> Sequence[Verdict]:
    """What may have failed a run, measured now: told a minute later it would be a message of its own."""
    from flows.monitoring.health import check_pipeline_health  # reads every model

    found = check_pipeline_health(services, causes.before(runs.SIGNAL))
    return [verdict for verdict in found if verdict.signal != WAREHOUSE]


def daily_summary(services: Services, *, is_once: bool = False) -> str:
    """Tell how the last 24 hours were; returns the text. `is_once`: unless that was done today already."""
    text = ""

    def told(connection: Connection[Any], now: datetime) -> list[Verdict]:
        nonlocal text
        title, lines = runs.day(connection, now)
        text = f"{title}\n{lines}"
        _news(services, connection, title, lines, now, occasion=f"daily_summary {now:%F}" if is_once else "")
        return []

    _settle(services, told)
    return text


def _settle(services: Services, measured: Callable[[Connection[Any], datetime], Sequence[Verdict]]) -> None:
    now, known = services.settings.now(), routes(services.settings)
    hidden = _hidden(services, known)
    with services.warehouse.connect() as connection:
        with connection.transaction():
            verdicts = [_with_since(connection, one) for one in measured(connection, now)]
            verdicts += delivery.channel_verdicts(connection, known, now)
            settlement.settle(connection, known, verdicts, now, hidden)
            is_back = away.back(connection, services.settings.lake_root, known, now)
        if is_back:
            remembered.forget(services.settings.lake_root)
        failed = delivery.deliver(connection, known, now, hidden)
        with connection.transaction():
            channels = delivery.channel_verdicts(connection, known, now)
            if channels:
                settlement.settle(connection, known, channels, now, hidden)
        delivery.deliver(connection, known, now, hidden, failed)


def _news(
    services: Services,
    connection: Connection[Any],
    title: str,
    body: str,
    now: datetime,
    *,
    html: str = "",
    occasion: str = "",
) -> None:
    known = routes(services.settings)
    hidden = _hidden(services, known)
    incidents.owe(
        connection,
        known.to("info"),
        kind="info",
        severity="info",
        title=words.scrubbed(title, hidden),
        body=words.scrubbed(body, hidden),
        html=words.scrubbed(html, hidden),
        occasion=occasion,
        now=now,
        due_at=known.due_at("info", now),
    )


def _with_since(connection: Connection[Any], verdict: Verdict) -> Verdict:
    """The verdict with the time from which on it is so, where the monitor has noted it."""
    if verdict.since is not None:
        return verdict
    row = connection.execute(
        "select since from ops.health where signal = %s and subject = %s and verdict = %s",
        (verdict.signal, verdict.subject, verdict.state.value),
    ).fetchone()
    return replace(verdict, since=row[0] if row else verdict.measured_at)


def _hidden(services: Services, known: Routes | None = None) -> list[str]:
    return [*services.settings.secrets(), *(known.secrets() if known else ())]


# ------------------------------------------------------------------------------------------ the command line


def list_command(arguments: argparse.Namespace) -> int:
    """`python -m flows alerts list`: what is open; `--all`: what was resolved too."""
    from flows.services import open_services

    services = open_services()
    try:
        rows = _incidents(services, arguments.all)
    except WarehouseError:
        outage = away.outage(services.settings.lake_root)
        if outage is None:
            raise
        rows = [outage]
    if arguments.json:
        print(json.dumps(rows, default=lambda moment: moment.isoformat(), indent=2))
        return 0
    now = services.settings.now()
    for row in rows:
        print("\n".join(_lines(row, now)))
    if not rows:
        print("No incident is open." if not arguments.all else "There has been no incident.")
    return 0


def _incidents(services: Services, everything: bool) -> list[dict[str, Any]]:
    with services.warehouse.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "select incident_id, signal, subject, severity, owner, since, opened_at, seen_at, resolved_at, "
            "acknowledged_at, acknowledged_by, escalated_at, message, action, runbook, touches, members "
            "from ops.incident where resolved_at is null or %s "
            "order by resolved_at is not null, opened_at desc limit 500",
            (everything,),
        ).fetchall()
        outage = away.outage(services.settings.lake_root) if read_only.why(connection) else None
        return rows if outage is None else [outage, *rows]


def _lines(row: dict[str, Any], now: datetime) -> list[str]:
    lasted = spoken(((row["resolved_at"] or now) - row["opened_at"]).total_seconds())
    state = f"resolved after {lasted}" if row["resolved_at"] else f"open for {lasted}"
    if row["acknowledged_at"]:
        state += f", acknowledged by {row['acknowledged_by']}"
    found = [f"{row['incident_id']}  {row['severity']:<8}  {state}", f"    {row['message']}"]
    if row["members"]:
        found.append(f"    with it: {words.told(row['members'])}")
    if row["action"] and not row["resolved_at"]:
        found.append(f"    to do:   {row['action']}  ({row['runbook']})")
    return found


def ack_command(arguments: argparse.Namespace) -> int:
    """`python -m flows alerts ack ID`: somebody is on it, so it is not escalated."""
    from flows.services import open_services

    services = open_services()
    name = arguments.by or getpass.getuser()
    now = services.settings.now()
    if not away.acknowledge(services.settings.lake_root, arguments.incident, name, now):
        with services.warehouse.connect() as connection:
            acknowledge(connection, arguments.incident, name, now)
    print(f"{arguments.incident} is acknowledged by {name}; it is not escalated while it is as bad as now.")
    return 0


def acknowledge(connection: Connection[Any], incident_id: str, by: str, now: datetime) -> None:
    """Note who is on it, also while a monitor brings it up to date. The id may be cut short while it is the
    only one. Raises NoIncident.
    """
    with connection.transaction():
        incidents.alone(connection)
        connection.execute(
            "update ops.incident set acknowledged_at = %s, acknowledged_by = %s where incident_id = %s",
            (now, by, _one_open(connection, incident_id).incident_id),
        )


def end_command(arguments: argparse.Namespace) -> int:
    """`python -m flows alerts end ID`: nothing will mend it, and nothing has to."""
    from flows.services import open_services

    services = open_services()
    name = arguments.by or getpass.getuser()
    with services.warehouse.connect() as connection, connection.transaction():
        one = _one_open(connection, arguments.incident)
        print("\n".join(ending.end(connection, one, name, services.settings.now())))
    return 0


def _one_open(connection: Connection[Any], incident_id: str) -> Incident:
    found = [one for one in incidents.opened(connection) if one.incident_id.startswith(incident_id)]
    if len(found) != 1:
        what = "No open incident's id begins" if not found else f"{len(found)} open incidents' ids begin"
        raise NoIncident(f"{what} with '{incident_id}'. See `python -m flows alerts list`.")
    return found[0]


def summary_command(_: argparse.Namespace) -> int:
    """`python -m flows alerts summary`: tell how the last 24 hours were, and print it."""
    from flows.services import open_services

    print(daily_summary(open_services()), file=sys.stdout)
    return 0


def automations_command(_: argparse.Namespace) -> int:
    """`python -m flows alerts automations`: have Prefect's server report runs that crash or do not start."""
    from flows.alerting.automations import AutomationsError, register
    from flows.settings import load

    address = load().prefect_address
    if address is None:
        raise AutomationsError(
            "No Prefect server is known: set PREFECT_API_URL, or start the sandbox "
            "(`python -m flows sandbox start`)."
        )
    for name in register(address):
        print(f"{name}: is reported")
    return 0

"""The batch, the backfill and the replay from a command line: start what is missing of the sandbox, run, say
where to look.

Prefect reads the environment when it is imported, so the flows are imported only after their services are
there.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from flows.durations import days_between
from flows.extract import debezium
from flows.garbage import look_rarely
from flows.hung import end_process_soon
from flows.sandbox import ALL, PART_OF_SETTING, Part
from flows.sandbox.postgres import packaged_binaries
from flows.sandbox.prefect_server import QUIET, environment, use_prefect
from flows.settings import Settings, SettingsError, load
from flows.summary import Summary
from flows.terminal import heed_ctrl_c
from transforms import registry

_CONNECT_SECONDS = 120.0
"""How long Kafka Connect is waited for, which starts beside the world."""
_QUESTION = "table analytics.mart_daily_metrics"


def ensure_services() -> None:
    """Start the sandbox's part of every service that no setting names, and let Prefect use a server that is
    there.

    With all services set and no PREFECT_API_URL, the run gets a temporary server of Prefect's own.
    """
    look_rarely()
    settings = load()
    if not settings.uses_sandbox:
        use_prefect(QUIET)
        return
    from flows.sandbox.commands import start_with_world

    parts = sandbox_parts(settings)
    with _capture(parts) as has_tables:
        state = start_with_world(settings.sandbox, parts, settings.cdc_exactly_once, has_tables)
        use_prefect(environment(state))
        # It takes a second, in which the connector is asked.
        importlib.import_module("prefect")


def sandbox_parts(settings: Settings) -> frozenset[Part]:
    """The parts of the sandbox that a run needs: those of services that no setting names, Kafka Connect where
    a table is declared as cdc.
    """
    parts = {PART_OF_SETTING[name] for name in settings.unset_services}
    if settings.prefect_server is None:
        parts |= {Part.PREFECT, Part.PREFECT_WORKER}
    is_in_kafka = Part.KAFKA in parts and settings.cdc_engine == "kafka"
    if is_in_kafka and settings.connect_url is None and debezium.entities():
        parts.add(Part.CONNECT)
    return frozenset(parts)


@contextmanager
def _capture(parts: frozenset[Part]) -> Iterator[Callable[[], None] | None]:
    """Have registered at its end what is declared as cdc: at the sandbox's own Kafka Connect, or in the
    warehouse where there is no Kafka.

    Gives what is to be called once the tables of a new world are there: they are read while the rest of it is
    made. Nobody waits for the end of that here. What can't be registered halts its tables and nothing else:
    landing says it.
    """
    if load().cdc_engine == "embedded" and Part.APP_POSTGRES in parts and debezium.entities():
        yield None
        _say_registered()
        return
    if Part.CONNECT not in parts:
        yield None
        return
    given_up = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        begun: list[Future[None]] = []
        try:
            yield lambda: begun.append(pool.submit(_register, given_up))
        except BaseException:
            given_up.set()
            raise
        (begun[0] if begun else pool.submit(_register, given_up)).result()


def _register(given_up: threading.Event) -> None:
    from flows.sandbox import processes
    from flows.sandbox.commands import show

    deadline = time.monotonic() + _CONNECT_SECONDS
    while not processes.healthy(f"{load().require('connect_url')}/connectors"):
        if time.monotonic() > deadline or given_up.is_set():
            return show(Part.CONNECT.value, "does not answer: nothing is registered")
        time.sleep(0.1)
    return _say_registered()


def _say_registered() -> None:
    from flows.cdc.registration import register
    from flows.errors import FlowsError
    from flows.sandbox.commands import show

    say = partial(show, Part.CONNECT.value)
    try:
        register(load(), debezium.entities(), say)
    except FlowsError as error:
        say(str(error))


def start_sandbox(arguments: argparse.Namespace) -> int:
    """`python -m flows sandbox start`: Kafka Connect only where a table is declared as cdc."""
    from flows.sandbox.commands import start

    has_connect = debezium.entities() and load().cdc_engine == "kafka"
    parts = ALL if has_connect else ALL - {Part.CONNECT}
    with _capture(parts) as has_tables:
        return start(arguments, parts, load().cdc_exactly_once, has_tables)


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows`: the batch."""
    _selected(arguments.select)
    ensure_services()
    from flows.batch import analytics_pipeline

    return _run(lambda: analytics_pipeline(select=arguments.select, yes=arguments.yes))


def backfill(arguments: argparse.Namespace) -> int:
    """`python -m flows backfill`."""
    days = days_between(arguments.start, arguments.end)
    _selected(arguments.select)
    ensure_services()
    from flows.backfill import backfill as flow
    from flows.backfill import hold_something

    hold_something(arguments.select, days)
    return _run(lambda: flow(start=arguments.start, end=arguments.end, select=arguments.select))


def _selected(select: Sequence[str] | None) -> None:
    """Raise ContractError for a name that no table has. What was typed wrong is told before a service is
    started for it: of a run that began and failed, everybody who is told of incidents would hear.
    """
    if select:
        registry.select(select)


def replay(arguments: argparse.Namespace) -> int:
    """`python -m flows replay`."""
    from flows.streaming.replays import Asked, ask, entity_of, hold_something

    asked = Asked.parse(arguments.start, arguments.end, arguments.partition)
    entity = entity_of(arguments.topic)
    if not arguments.dry_run:
        ensure_services()
    from flows.progress import Progress
    from flows.services import open_services

    services = open_services()
    with services.lake, Progress("replay") as progress:
        if arguments.dry_run:
            found = ask(services, entity, asked, progress, dry_run=True)
            print("\n".join([*found.found(), *found.done(), "Nothing was changed."]))
            return 0
        hold_something(services, entity, asked, progress)
    from flows.replay import replay as flow

    topic, start, end = arguments.topic, arguments.start, arguments.end
    return _run(lambda: flow(topic=topic, start=start, end=end, partitions=arguments.partition))


def rebuild(arguments: argparse.Namespace) -> int:
    """`python -m flows rebuild`."""
    if arguments.from_lake:
        from flows.recovery.whole import command as from_lake

        return from_lake(arguments)
    if arguments.as_of:
        from flows.as_of import command as as_of

        return as_of(arguments)
    if arguments.into or not arguments.table:
        from flows.errors import FlowsError

        raise FlowsError(
            "rebuild needs the names of the tables to make right, --as-of with a moment, or --from-lake."
        )
    _selected(arguments.table)
    ensure_services()
    from flows.backfill import hold_something
    from flows.backfill import rebuild as flow

    hold_something(arguments.table)
    return _run(lambda: flow(select=arguments.table))


def _run(flow: Callable[[], dict[str, Any]]) -> int:
    """Run a flow and tell what it did; exit code 1 when something in it failed."""
    import httpx
    from prefect.exceptions import ObjectNotFound

    from flows.batch import RunFailed

    _reach_prefect(load())
    heed_ctrl_c()
    try:
        summary = flow()
    except RunFailed as failed:
        print("\n".join(["", *failed.summary.lines()]), file=sys.stderr)
        return failed.exit_code
    except (httpx.HTTPError, ObjectNotFound) as error:
        return _tell_without_prefect(error)
    done = Summary.from_json(summary)
    print("\n".join(["", *done.lines(), "", *where_to_look(has_pages=done.has_pages)]))
    return 0


def _tell_without_prefect(error: Exception) -> int:
    """Tell what the run did where Prefect's server, of which this is the error, does not take it. Raises
    FlowsError where it had not come to its end.
    """
    from flows.batch import ended
    from flows.errors import FlowsError

    reason = load().scrub((str(error).splitlines() or [""])[0] or type(error).__name__).rstrip(".")
    summary = ended()
    code = 2 if summary is None else int(bool(summary.failures))
    end_process_soon(code=code)  # Prefect's threads wait for it with all that they have still to tell
    if summary is None:
        raise FlowsError(
            f"Prefect's server does not answer any more ({reason}), and the run had not come to its end. See "
            "to the server (`python -m flows doctor`), then run again: the next run goes on from there."
        ) from error
    told = (
        f"Prefect's server does not answer any more ({reason}): how this run ended stands in ops.run alone."
    )
    print("\n".join(["", *summary.lines(), f"warning: {told}"]), file=sys.stderr)
    return code


def _reach_prefect(settings: Settings) -> None:
    """Ask Prefect's server what it is, as a flow would be the first to. Raises SettingsError where it can't
    be used; without one a run has its own.
    """
    if settings.prefect_address is None:
        return
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            client.raise_for_api_version_mismatch_once()
    except Exception as error:
        reason = settings.scrub(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise SettingsError(
            f"Prefect's server can't be used: {reason.rstrip('.')}. Start it (prefect server start), or "
            "correct PREFECT_API_URL."
        ) from error


def where_to_look(*, has_pages: bool) -> list[str]:
    """Lines for the end of a run: each is a command that works as it stands, or an address; the portal's only
    where the run wrote its pages. The sandbox's own password stands in its address, nobody else's does.
    """
    from flows.sandbox import world

    settings = load()
    lake_sql = settings.lake_root / "lake.sql"
    python = _here(Path(sys.executable))
    lines = ["Look around:"]
    lines.append(
        f"  warehouse   {_psql()} '{settings.require('warehouse_dsn')}' -c '{_QUESTION}'"
        if settings.warehouse_dsn is None
        else "  warehouse   schema analytics, in the database of ANALYTICS_WAREHOUSE_DSN"
    )
    lines.append(f"  lake        {_duckdb()} -init {_here(lake_sql)}   or: {python} -m flows lake")
    if has_pages:
        front = _here(settings.portal_root / "index.html")
        lines.append(f"  portal      {front}   with rows: {python} -m flows portal --serve")
    if settings.prefect_address:
        lines.append(f"  Prefect     {settings.scrub(settings.prefect_address).removesuffix('/api')}")
    lines.append(f"  again       {python} -m flows          what it would do: {python} -m flows plan")
    if settings.app_dsn is None and world.exists(settings.sandbox):
        lines.append(f"  a day more  {python} -m flows sandbox advance --days 1 && {python} -m flows")
    if settings.uses_sandbox:
        lines.append(f"  stop        {python} -m flows sandbox stop")
    return lines


def _here(path: Path) -> str:
    """The path as somebody would type it from this folder."""
    try:
        return (
            shlex.quote(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else shlex.quote(str(path))
        )
    except ValueError:
        return shlex.quote(str(path))


def _duckdb() -> str:
    beside = Path(sys.executable).with_name("duckdb")
    return _here(beside) if beside.exists() else shutil.which("duckdb") or "duckdb"


def _psql() -> str:
    return _here(packaged_binaries() / "psql")

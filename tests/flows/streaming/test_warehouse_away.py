"""A warehouse that the stream loses: answers that never come, a minute without a server, a mute server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import flows.sandbox as sandbox
from flows.sandbox import Part, processes
from tests.flows.extract.counterparts import running, toxiproxy
from tests.flows.streaming.topics import Topics, until
from tests.flows.streaming.workers import Sender, Worker, prove, taken_in
from tests.house import House, Server

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

CUTS = 8
ANSWER_MS = 40
POLL_SECONDS = 10


class Proxy:
    """Toxiproxy before one server: its answers are late, so that they can be cut off on their way."""

    def __init__(self, address: str, dsn: str) -> None:
        self._own = f"{address}/proxies/warehouse"
        # Kept open: to make one takes longer than an answer is on its way.
        self._client = httpx.Client(trust_env=False)
        port, listen = conninfo_to_dict(dsn)["port"], processes.free_port()
        body = {"name": "warehouse", "listen": f"127.0.0.1:{listen}", "upstream": f"127.0.0.1:{port}"}
        toxic = {"type": "latency", "stream": "downstream", "attributes": {"latency": ANSWER_MS}}
        self._post(f"{address}/proxies", body)
        self._post(f"{self._own}/toxics", toxic)
        self.dsn = make_conninfo(dsn, port=listen, sslmode="disable", gssencmode="disable")

    def cut(self) -> None:
        """Cut every connection, with the answers that are on their way; others may come at once."""
        self._post(self._own, {"enabled": False})
        self._post(self._own, {"enabled": True})

    def _post(self, url: str, body: Mapping[str, object]) -> None:
        self._client.post(url, json=body).raise_for_status()


@pytest.fixture
def proxy(house: House) -> Iterator[str]:
    """Toxiproxy's own address."""
    program, port = toxiproxy(), processes.free_port()
    with running([str(program), "-host", "127.0.0.1", "-port", str(port)], port) as address:
        yield address


def test_commits_whose_answer_is_cut_off_lose_nothing_and_double_nothing(
    house: House, tmp_path: Path, proxy: str
) -> None:
    """Each time the connection is cut when the server shows the commit, long before its answer arrives."""
    topics = Topics.build(house, tmp_path)
    direct = topics.world.warehouse_dsn
    through = Proxy(proxy, direct)
    with psycopg.connect(direct, autocommit=True) as watching:

        def committed() -> int:
            row = watching.execute(
                "select coalesce(sum(next_offset), 0)::bigint from ops.stream_partition"
            ).fetchone()
            assert row is not None
            return int(row[0])

        topics.world.warehouse_dsn = through.dsn
        with topics.living() as living:
            topics.world.warehouse_dsn = direct  # for all but the stream
            with Sender(topics, rate=250) as sender:
                for _ in range(CUTS):
                    before, end = committed(), time.monotonic() + 60
                    while committed() == before:
                        assert time.monotonic() < end, "the stream did not go on"
                        time.sleep(0.002)
                    through.cut()
            until(lambda: taken_in(topics) == sender.count, 120)
    tally = living.result()
    assert tally.interruptions >= CUTS
    assert sender.count - tally.messages >= CUTS, "no commit was there whose answer had been lost"
    prove(topics, sender.count)


# -------------------------------------------------------------------------------------- a server of one's own


class Postgres:
    """A PostgreSQL of these tests alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start()

    def start(self) -> None:
        """Start it, at the address it has."""
        state = sandbox.start(self._folder, frozenset({Part.WAREHOUSE_POSTGRES}))
        assert state.warehouse_dsn is not None
        process = state.parts[Part.WAREHOUSE_POSTGRES].process
        assert process is not None
        self.server, self._process = Server(18, state.warehouse_dsn), process

    def stop(self) -> None:
        """At once (SIGQUIT): no checkpoint, and whoever is connected is cut off."""
        processes.end(self._process, [(signal.SIGQUIT, 20.0), (signal.SIGKILL, 5.0)])

    @contextmanager
    def mute(self) -> Iterator[None]:
        """While the block runs it and its sessions stand still: connections stay, answers do not come."""
        with psycopg.connect(self.server.dsn("postgres")) as connection:
            rows = connection.execute("select pid from pg_stat_activity").fetchall()
        # The postmaster first, or it takes its sessions' standing still for an ending.
        everybody = [self._process.pid, *(pid for (pid,) in rows)]
        for pid in everybody:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(everybody):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Postgres]:
    folder = tmp_path / "sandbox"
    try:
        yield Postgres(folder)
    finally:
        sandbox.reset(folder)


def test_a_minute_without_the_warehouse_is_made_up_unaided_in_bounded_memory(
    house: House, own: Postgres, tmp_path: Path
) -> None:
    topics = Topics.build(house, tmp_path, server=own.server)
    with Worker(topics) as worker:
        with Sender(topics, rate=1_000) as sender:
            until(lambda: taken_in(topics) > 5_000, 60)
            before = worker.resident()
            own.stop()
            time.sleep(60)
            meanwhile = worker.resident()
            own.start()
        until(lambda: taken_in(topics) == sender.count, 90)
        highest = worker.resident("VmHWM")
        worker.end(signal.SIGTERM)
    assert meanwhile < before + 100, (
        f"{before:.0f} MB before, {meanwhile:.0f} MB when it was away for a minute"
    )
    assert highest < 1024
    prove(topics, sender.count)


def test_a_stream_that_the_group_gave_up_while_it_waited_goes_on_unaided(
    house: House, own: Postgres, tmp_path: Path
) -> None:
    """The warehouse is mute for longer than max.poll.interval.ms: the partitions are taken away meanwhile."""
    options = {"max.poll.interval.ms": str(POLL_SECONDS * 1000), "session.timeout.ms": "6000"}
    topics = Topics.build(house, tmp_path, server=own.server, kafka_options=options)
    with topics.living():
        with Sender(topics, rate=1_000) as sender:
            until(lambda: taken_in(topics) > 3_000, 60)
            claims = _claims(topics)
            with own.mute():
                time.sleep(POLL_SECONDS + 8)
            until(lambda: _claims(topics) > claims, 60)
        until(lambda: taken_in(topics) == sender.count, 60)
    prove(topics, sender.count)


def _claims(topics: Topics) -> int:
    """How often the partition was claimed so far."""
    ((generation,),) = topics.rows(
        "select max(generation) from ops.stream_partition where entity = 'raw_events__user_events'"
    )
    return int(generation)

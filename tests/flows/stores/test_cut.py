"""A connection cut after the server committed and before the answer came: looked up, never assumed."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from flows.stores.lake import Lake
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import NotLetIn, WarehouseError
from flows.tries import may_pass
from tests.flows.stores.logins import login
from tests.flows.stores.world import DAY, EVENTS, built, create, rows, tidy, visits


class Cutter:
    """Forwards to the server; the answer to the n-th COMMIT is swallowed and its connection closed.

    With `late_seconds` the client hears of the end first, and so much later the server of the COMMIT.
    """

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.target = self.listener.getsockname()[1], port
        self.commits = 0
        self.cut_at: int | None = None
        self.was_cut = False
        self.late_seconds = 0.0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                dying = threading.Event()
                threading.Thread(target=self._up, args=(client, server, dying), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server, dying), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, dying: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT\0" in data:
                    with self._lock:
                        if self.commits == self.cut_at:
                            dying.set()
                            self.was_cut = True
                        self.commits += 1
                    if dying.is_set() and self.late_seconds:
                        client.shutdown(socket.SHUT_RDWR)
                        time.sleep(self.late_seconds)
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, client: socket.socket, server: socket.socket, dying: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if dying.is_set():
                    break
                client.sendall(data)
        for side in (client, server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()


@pytest.fixture
def cutter(dsn: str) -> Iterator[Cutter]:
    cutter = Cutter(int(str(psycopg.conninfo.conninfo_to_dict(dsn)["port"])))
    yield cutter
    cutter.listener.close()


def test_a_lost_answer_at_any_commit_changes_nothing(dsn: str, lake: Lake, cutter: Cutter) -> None:
    create(dsn, EVENTS)
    through = Warehouse(
        psycopg.conninfo.make_conninfo(dsn, port=cutter.port, sslmode="disable", gssencmode="disable")
    )
    succeeded_though_cut = 0
    for number in range(20):
        changed = f"SELECT * REPLACE ({number}::DECIMAL(10,2) AS paid) FROM ({visits(DAY, 50 + number)})"
        item = built(lake, EVENTS, DAY, changed, batch=f"b{number}", version=number)
        cutter.commits, cutter.cut_at, cutter.was_cut = 0, number % 6, False
        try:
            publish(EVENTS, [item], warehouse=through, lake=lake)
            succeeded_though_cut += cutter.was_cut
        except WarehouseError as error:
            assert "cut" in str(error)  # noqa: PT017
        cutter.cut_at = None
        publish(EVENTS, [item], warehouse=through, lake=lake)

        found = rows(dsn, "fct_visits")
        assert (len(found), {row[4] for row in found}) == (50 + number, {number})
    assert succeeded_though_cut > 0
    left = tidy(dsn, lake)
    assert (left["left"], left["swept"]) == ([], [])
    assert len(lake.manifest("facts", "fct_visits")) == 20


def test_a_commit_that_comes_after_the_cut_is_waited_for(
    dsn: str, lake: Lake, cutter: Cutter, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(dsn, EVENTS)
    through = Warehouse(
        psycopg.conninfo.make_conninfo(dsn, port=cutter.port, sslmode="disable", gssencmode="disable")
    )
    cutter.late_seconds = 1.5

    def cut_at_this_commit(name: str) -> None:
        if name == "publish.before_commit":
            cutter.cut_at = cutter.commits

    monkeypatch.setattr("flows.stores.publish.failpoint", cut_at_this_commit)
    day = built(lake, EVENTS, DAY, visits(DAY, 50), batch="b1")
    began = time.monotonic()

    done = publish(EVENTS, [day], warehouse=through, lake=lake)

    assert cutter.was_cut
    assert time.monotonic() - began > cutter.late_seconds
    assert (done.ways, done.skipped) == ({DAY: "attach"}, [])
    assert len(rows(dsn, "fct_visits")) == 50
    assert len(lake.manifest("facts", "fct_visits")) == 1
    assert tidy(dsn, lake) == {"repaired": [], "dropped": [], "swept": [], "left": []}


def test_no_server_is_one_sentence_without_the_password(dsn: str) -> None:
    away = Warehouse(psycopg.conninfo.make_conninfo(dsn, port=1, password="s3cret-word"))

    with pytest.raises(WarehouseError) as caught, away.connect():
        pass

    assert "s3cret-word" not in str(caught.value)
    assert "doctor" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_login_whose_password_is_another_now_is_not_tried_again(dsn: str) -> None:
    """A process keeps the one that it began with: it would be refused as often as it asks."""
    with login(dsn, "loader") as named, Warehouse(named).connect():
        with psycopg.connect(dsn, autocommit=True) as admin:
            role = psycopg.conninfo.conninfo_to_dict(named)["user"]
            admin.execute(f"alter role {role} password 'of now'".encode())
        with pytest.raises(NotLetIn) as told, Warehouse(named).connect():
            pass
    assert not may_pass(told.value)


def test_a_server_that_has_no_place_for_another_session_is_waited_for(dsn: str) -> None:
    name = f"guest_{secrets.token_hex(4)}"
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(f"create role {name} login password 'guest' connection limit 1".encode())
    guest = Warehouse(psycopg.conninfo.make_conninfo(dsn, user=name, password="guest"))
    for question in (_ask, _copy_out):
        with guest.connect() as only, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(question, guest)
            time.sleep(0.3)
            assert not waiting.done()
            only.close()
            assert waiting.result(30) == 1


def _ask(warehouse: Warehouse) -> int:
    with warehouse.connect() as connection:
        row = connection.execute("select 1").fetchone()
    assert row is not None
    return int(row[0])


def _copy_out(warehouse: Warehouse) -> int:
    with warehouse.reading("select 1 as n") as reader:
        return int(reader.read_all()["n"][0].as_py())

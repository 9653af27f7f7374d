"""Nothing moves silently: a server that was put back, or that does not log changes, halts its tables."""

from __future__ import annotations

import pytest

from flows.extract.debezium_guard import ANEW
from flows.extract.debezium_observed import observe_source
from tests.flows.extract.guarded import NAMES, USERS, Source, judge
from tests.flows.extract.sources import source_server
from tests.house import EACH_VERSION
from transforms.entities import Postgres


@pytest.mark.parametrize("version", EACH_VERSION)
def test_a_source_restored_from_an_older_backup_halts(version: int) -> None:
    with source_server(version) as server:
        source = Source(server)
        server.back_up()
        server.run("insert into users select n, 'x' from generate_series(1, 10000) n")
        before = source.look()
        server.restore()
        halt = judge(source.look(), before)
        assert "which was seen already (restored from an older backup)" in halt
        assert halt.endswith(f"{ANEW}.")


def test_a_server_that_does_not_log_changes_halts() -> None:
    with source_server(18, wal_level="replica") as server:
        server.run("create table users (id bigint primary key, label text)")
        assert isinstance(USERS.read, Postgres)
        seen = observe_source(server.dsn, NAMES, [USERS.read], None, None)
        assert "wal_level is replica" in judge(seen)

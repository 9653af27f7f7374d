"""TLS to PostgreSQL: psycopg and ADBC both hold the server to its name and the authority they were given."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import trustme
from psycopg.conninfo import make_conninfo

from flows.stores.lake import Lake
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse, WarehouseError
from tests.flows.stores.world import DAY, EVENTS, built, create, rows, visits
from tests.house import Server

NAME = "db.example.test"


@dataclass
class Served:
    """A server that speaks TLS, and the files of the authority that vouches for it."""

    dsn: str
    authority: Path
    another: Path

    def named(self, host: str = NAME, authority: Path | None = None) -> str:
        """Its address under this name, to be verified in full."""
        return make_conninfo(
            self.dsn,
            host=host,
            hostaddr="127.0.0.1",
            sslmode="verify-full",
            sslrootcert=str(authority or self.authority),
        )


@pytest.fixture
def served(postgres15: Server, tmp_path: Path) -> Iterator[Served]:
    """PostgreSQL 15 with a certificate for NAME, while the test lasts."""
    dsn = postgres15.database()
    ours, others = trustme.CA(), trustme.CA()
    certificate = ours.issue_cert(NAME)
    ours.cert_pem.write_to_path(tmp_path / "ours.pem")
    others.cert_pem.write_to_path(tmp_path / "others.pem")
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("show data_directory").fetchone()
        assert row is not None
        data = Path(row[0])
        certificate.private_key_pem.write_to_path(data / "tls.key")
        certificate.cert_chain_pems[0].write_to_path(data / "tls.pem")
        for name in ("tls.key", "tls.pem"):
            (data / name).chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(data / name, data.owner(), data.group())
        for statement in ("ssl_cert_file = 'tls.pem'", "ssl_key_file = 'tls.key'", "ssl = on"):
            connection.execute(f"alter system set {statement}".encode())
        connection.execute("select pg_reload_conf()")
    try:
        yield Served(dsn, tmp_path / "ours.pem", tmp_path / "others.pem")
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for setting in ("ssl", "ssl_cert_file", "ssl_key_file"):
                connection.execute(f"alter system reset {setting}".encode())
            connection.execute("select pg_reload_conf()")


def test_a_verified_server_is_published_to_over_tls_alone(served: Served, lake: Lake) -> None:
    create(served.dsn, EVENTS)
    warehouse = Warehouse(served.named())
    item = built(lake, EVENTS, DAY, visits(DAY, 20), batch="b1")
    publish(EVENTS, [item], warehouse=warehouse, lake=lake)  # psycopg for DDL, ADBC for the rows
    assert len(rows(served.dsn, "fct_visits")) == 20
    with warehouse.connect() as connection:
        query = (
            "select distinct ssl from pg_stat_ssl join pg_stat_activity using (pid) "
            "where application_name = %s"
        )
        assert connection.execute(query, ("user-analytics",)).fetchall() == [(True,)]


@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_another_name_or_authority_is_refused_by_both_drivers(served: Served, wrong: str) -> None:
    dsn = served.named("other.example.test") if wrong == "name" else served.named(authority=served.another)
    warehouse = Warehouse(dsn)
    reason = "does not match host name" if wrong == "name" else "certificate verify failed"
    with pytest.raises(WarehouseError, match=reason), warehouse.connect():
        pass
    with pytest.raises(WarehouseError, match=reason), warehouse.reading("select 1") as reader:
        reader.read_all()

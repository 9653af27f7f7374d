"""TLS to PostgreSQL: psycopg and ADBC both hold the server to its name and the authority they were given."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme
from psycopg.conninfo import make_conninfo

from flows.stores.lake import Lake
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import WarehouseError
from tests.flows.stores.world import DAY, EVENTS, built, create, rows, visits
from tests.house import Server

NAME = "db.example.test"


@dataclass
class Served:
    """A server that speaks TLS, and the files of the authority that vouches for it."""

    dsn: str
    ours: trustme.CA
    authority: Path
    another: Path

    def show(self, certificate: trustme.LeafCert) -> None:
        """Let new connections see this one."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
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
    ours.cert_pem.write_to_path(tmp_path / "ours.pem")
    others.cert_pem.write_to_path(tmp_path / "others.pem")
    made = Served(dsn, ours, tmp_path / "ours.pem", tmp_path / "others.pem")
    made.show(ours.issue_cert(NAME))
    try:
        yield made
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


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("name", "does not match host name"),
        ("authority", "certificate verify failed"),
        ("time", "certificate has expired|certificate verify failed"),
    ],
)
def test_another_name_or_authority_and_a_certificate_past_its_time_are_refused_by_both_drivers(
    served: Served, wrong: str, reason: str
) -> None:
    if wrong == "time":
        past = datetime(2024, 1, 1, tzinfo=UTC)
        served.show(served.ours.issue_cert(NAME, not_before=past - timedelta(days=90), not_after=past))
    given: dict[str, dict[str, Any]] = {
        "name": {"host": "other.example.test"},
        "authority": {"authority": served.another},
    }
    _refused(served.named(**given.get(wrong, {})), reason)


def test_a_server_that_speaks_no_tls_is_refused_by_both_drivers(postgres18: Server, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ours.pem")
    for how in ("require", "verify-full"):
        more = {"sslrootcert": str(tmp_path / "ours.pem")} if how == "verify-full" else {}
        _refused(make_conninfo(postgres18.dsn("postgres"), sslmode=how, **more), "does not support SSL")


def _refused(dsn: str, reason: str) -> None:
    warehouse = Warehouse(dsn)
    with pytest.raises(WarehouseError, match=reason), warehouse.connect():
        pass
    with pytest.raises(WarehouseError, match=reason), warehouse.reading("select 1") as reader:
        reader.read_all()

"""A role of the warehouse that lacks a right: told once, with the tables it stops and what gives it."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import psycopg
import pytest
from prefect import flow

from flows import batch
from flows.batch import RunFailed, runner
from flows.errors import FlowsError
from flows.flow_names import BATCH
from flows.monitoring.runs import failed_tables
from flows.stores import roles
from flows.stores.warehouse import Warehouse
from tests.flows.alerting.conftest import Watch
from tests.flows.stores.logins import login
from tests.flows.warehouses import with_tables
from tests.house import Server
from transforms import registry

pytestmark = pytest.mark.usefixtures("prefect")


def _failures(watch: Watch) -> list[str]:
    """Of a run that lands nothing and builds what is due."""

    @flow(name=BATCH, task_runner=runner)
    def run() -> list[str]:
        return batch.run(BATCH, (), None, False).failures

    with mock.patch.object(batch, "open_services", return_value=watch.services()):
        try:
            return run()
        except RunFailed as failed:
            return failed.summary.failures
        except FlowsError as error:
            return [str(error)]


def _warehouse(server: Server) -> str:
    """One whose tables are loader's."""
    dsn = with_tables(server)
    with Warehouse(dsn).connect() as connection:
        roles.hand_over(connection)
    return dsn


def _administer(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(statement.encode())


def _given(failure: str) -> str:
    """The statement that it names."""
    return failure.partition("Let an administrator run: ")[2].partition(";")[0]


def test_a_right_that_stops_many_tables_is_one_line_with_each_of_them_once(
    postgres18: Server, tmp_path: Path
) -> None:
    dsn = _warehouse(postgres18)
    _administer(dsn, "revoke all on schema unpublished from loader")
    with login(dsn, "loader") as named:
        watch = Watch(tmp_path, named)
        (failure,) = _failures(watch)
        names = failure.partition(":")[0].split(", ")
        assert len(names) == len(set(names)) > 3
        assert failed_tables([failure]) == set(names) < registry.tables().keys()
        assert "permission denied for schema unpublished" in failure
        assert _given(failure) == "grant usage, create on schema unpublished to loader"
        _administer(dsn, _given(failure))
        assert watch.rows("select has_schema_privilege('loader', 'unpublished', 'create')") == [(True,)]


@pytest.mark.full
@pytest.mark.parametrize(
    ("taken", "given"),
    [
        (
            "revoke all on schema analytics from loader, reader",
            "grant usage, create on schema analytics to loader",
        ),
        ("revoke all on schema ops from loader", "grant usage, create on schema ops to loader"),
        (
            "revoke all on ops.ledger from loader",
            "grant select, insert, update, delete on ops.ledger to loader",
        ),
        ("revoke all on ops.run from loader", "grant select, insert, update, delete on ops.run to loader"),
        (
            "alter table analytics.dim_currencies owner to owner",
            "alter table analytics.dim_currencies owner to loader",
        ),
    ],
)
def test_what_is_missing_is_told_with_the_statement_that_gives_it(
    postgres18: Server, tmp_path: Path, taken: str, given: str
) -> None:
    dsn = _warehouse(postgres18)
    _administer(dsn, taken)
    with login(dsn, "loader") as named:
        failures = _failures(Watch(tmp_path, named))
    assert [_given(failure) for failure in failures] == [given]

"""The pipeline runs as a login that is a loader and nothing else; readers keep what they may read."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from flows.__main__ import main
from flows.sandbox.postgres import packaged_binaries
from flows.stores import roles
from flows.stores.lake import Lake
from flows.stores.migrate import InTheWay, migrate, migrate_view
from flows.stores.publish import publish
from flows.stores.standalone import sweep
from flows.stores.upkeep import analyze, refresh, retire
from flows.stores.warehouse import Warehouse
from tests.flows.stores.logins import lay, login
from tests.flows.stores.world import DAY, EVENTS, USERS, built, visits
from tests.house import Server
from transforms.contract import Column
from warehouse_ddl.files import View

ROOT = Path(__file__).parents[3]
PEOPLE = replace(USERS, columns=(USERS.columns[0], replace(USERS.columns[1], pii=True), USERS.columns[2]))
ROWS = "SELECT i AS person_id, 'n' || i AS name, '{}'::JSON AS properties FROM range(3) t(i)"


@pytest.fixture
def loader(any_dsn: str) -> Iterator[Warehouse]:
    """The warehouse as a login sees it that is a member of loader alone."""
    lay(any_dsn)
    with login(any_dsn, "loader") as dsn:
        yield Warehouse(dsn)


def _ask(dsn: str, query: str, role: str = "") -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        if role:
            connection.execute(f"set role {role}".encode())
        return connection.execute(query.encode()).fetchall()


def test_a_loader_publishes_by_every_way_and_all_of_it_belongs_to_the_role(
    any_dsn: str, loader: Warehouse, lake: Lake
) -> None:
    view = View(
        "mv_visits",
        ("fct_visits",),
        (
            "create materialized view analytics.mv_visits as "
            "select page, count(*) from analytics.fct_visits group by 1",
            "create unique index on analytics.mv_visits (page)",
        ),
    )
    migrate(loader, lake, EVENTS)
    migrate_view(loader, view)
    for number, (rows, way) in enumerate([(40, None), (41, None), (60, "swap")]):
        item = built(lake, EVENTS, DAY, visits(DAY, rows), batch=f"b{number}")
        done = publish(EVENTS, [item], warehouse=loader, lake=lake, views=["mv_visits"], way=way)  # type: ignore[arg-type]
        assert not done.is_pending
    analyze(loader, [EVENTS])
    assert [one.view for one in refresh(loader)] == ["mv_visits"]
    assert migrate(
        loader, lake, replace(EVENTS, columns=(*EVENTS.columns, Column("os", "VARCHAR")))
    ).is_needed
    with loader.connect() as connection:
        sweep(connection)

    assert _ask(any_dsn, "select count(*) from analytics.fct_visits", "reader") == [(60,)]
    assert _ask(any_dsn, "select sum(count)::int from analytics.mv_visits", "reader") == [(60,)]
    owners = _ask(
        any_dsn,
        "select distinct relowner::regrole::text from pg_class where relkind in ('r', 'p', 'm', 'v') "
        "and relnamespace = 'analytics'::regnamespace",
    )
    assert owners == [("loader",)]
    kept = replace(EVENTS, retention=timedelta(days=1))
    assert retire(loader, lake, kept, datetime(2025, 11, 1, tzinfo=UTC)) == [DAY]


def test_personal_data_stays_masked_through_rebuilds_and_new_columns(
    any_dsn: str, loader: Warehouse, lake: Lake
) -> None:
    migrate(loader, lake, PEOPLE)
    publish(PEOPLE, [built(lake, PEOPLE, "", ROWS, batch="b1")], warehouse=loader, lake=lake)
    shown = "select distinct left(name, 7) from analytics.dim_people"
    assert _ask(any_dsn, shown, "reader") == [("masked:",)]
    with_age = replace(PEOPLE, columns=(Column("age", "INTEGER"), *PEOPLE.columns))
    assert not migrate(loader, lake, with_age).rebuild
    assert _ask(any_dsn, shown, "reader") == [("masked:",)]
    assert _ask(any_dsn, "select age from analytics.dim_people limit 1", "reader") == [(None,)]
    required = replace(
        with_age, columns=tuple(replace(c, nullable=c.name == "name") for c in with_age.columns)
    )
    assert migrate(loader, lake, required).rebuild
    assert _ask(any_dsn, shown, "reader") == [("masked:",)]
    assert _ask(any_dsn, "select name from analytics.dim_people where person_id = 2", "pii_reader") == [
        ("n2",)
    ]


def test_a_column_that_is_found_to_be_personal_is_withdrawn_and_can_be_given_back(
    any_dsn: str, loader: Warehouse, lake: Lake
) -> None:
    migrate(loader, lake, USERS)
    publish(USERS, [built(lake, USERS, "", ROWS, batch="b1")], warehouse=loader, lake=lake)
    assert _ask(any_dsn, "select name from analytics.dim_people where person_id = 1", "reader") == [("n1",)]
    migrate(loader, lake, PEOPLE)
    (masked,) = _ask(any_dsn, "select name from analytics.dim_people where person_id = 1", "reader")
    assert str(masked[0]).startswith("masked:")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        _ask(any_dsn, "table personal.dim_people", "reader")
    changed = ROWS.replace("'n'", "'m'")
    publish(PEOPLE, [built(lake, PEOPLE, "", changed, batch="b2")], warehouse=loader, lake=lake)
    migrate(loader, lake, USERS)
    assert _ask(any_dsn, "select name from analytics.dim_people where person_id = 1", "reader") == [("m1",)]


def test_somebodys_view_that_would_go_on_showing_personal_data_is_in_the_way(
    any_dsn: str, loader: Warehouse, lake: Lake
) -> None:
    migrate(loader, lake, USERS)
    with psycopg.connect(any_dsn, autocommit=True) as connection:
        connection.execute("create view public.mine as select name from analytics.dim_people")
    with pytest.raises(InTheWay, match="mine"):
        migrate(loader, lake, PEOPLE)
    assert _ask(any_dsn, "select count(*) from analytics.dim_people", "reader") == [(0,)]


def test_a_loader_can_take_a_backup_of_all_that_there_is(postgres18: Server, lake: Lake) -> None:
    admin = postgres18.database()
    lay(admin)
    with login(admin, "loader") as dsn:
        migrate(Warehouse(dsn), lake, PEOPLE)
        words: list[str | Path] = [packaged_binaries() / "pg_dump", "--format=plain", dsn]
        dumped = subprocess.run(words, capture_output=True, text=True, check=False)
    assert dumped.returncode == 0, dumped.stderr
    assert "COPY personal.mask_key" in dumped.stdout


def test_a_loader_may_not_change_roles_and_is_told_who_must(any_dsn: str) -> None:
    with login(any_dsn, "loader") as dsn:
        with Warehouse(dsn).connect() as connection, pytest.raises(roles.RolesError, match="flows roles"):
            roles.lay(connection)
        lay(any_dsn)
        with Warehouse(dsn).connect() as connection:
            assert roles.lay(connection) is False


def test_a_member_of_owner_may_complete_what_a_newer_version_needs(any_dsn: str) -> None:
    with login(any_dsn, "owner") as dsn, Warehouse(dsn).connect() as connection:
        assert roles.lay(connection) is True
        name = connection.info.user
        assert name in {member.login for member in roles.members(connection)}


def test_the_command_makes_the_roles_and_says_who_has_which(
    any_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANALYTICS_WAREHOUSE_DSN", any_dsn)
    with login(any_dsn, "reader") as dsn:
        assert main(["roles"]) == 0
        said = capsys.readouterr().out
        name = psycopg.conninfo.conninfo_to_dict(dsn)["user"]
    assert said.startswith("Schemas, roles and rights are as they have to be.\n")
    (line,) = [line for line in said.splitlines() if line.startswith("  reader ")]
    assert str(name) in line
    documented = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert all(line[:70] in documented for line in said.splitlines()[:5])


def test_what_a_superuser_made_is_handed_over(any_dsn: str, lake: Lake) -> None:
    lay(any_dsn)
    migrate(Warehouse(any_dsn), lake, EVENTS)  # as the superuser that every test is
    with Warehouse(any_dsn).connect() as connection:
        assert roles.hand_over(connection) == ["analytics.fct_visits"]
        assert roles.hand_over(connection) == []
    with login(any_dsn, "loader") as dsn:
        item = built(lake, EVENTS, DAY, visits(DAY, 5), batch="b1")
        publish(EVENTS, [item], warehouse=Warehouse(dsn), lake=lake)
    assert _ask(any_dsn, "select count(*) from analytics.fct_visits", "reader") == [(5,)]

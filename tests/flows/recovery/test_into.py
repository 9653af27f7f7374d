"""A backup comes back into any server that serves, beside what others have there, with the rights it had."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flows.__main__ import main
from flows.recovery.listing import text_of
from flows.recovery.programs import ProgramError
from flows.recovery.restoring import clear, notes_of, occupied, restore, workplace
from flows.recovery.taking import open_vault, take
from flows.recovery.vault import DUMP, Backup
from flows.sandbox.postgres import packaged_binaries
from flows.services import Services
from flows.stores.dependents import InTheWay
from flows.stores.roles import ROLES
from tests.flows.recovery.conftest import filled, services_in, unseen
from tests.flows.stores.logins import lay, login
from tests.house import EACH_VERSION, VERSIONS, House, Server

_MADE = ("fct_visits", "fct_visits_2025_10_07", "dim_people")
"""What a warehouse that is `filled` publishes."""


@pytest.fixture(params=EACH_VERSION)
def server(house: House, request: pytest.FixtureRequest) -> Server:
    """PostgreSQL of each version that is served."""
    return house.server(request.param)


@pytest.fixture
def services(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """A warehouse on it, which the command line finds too."""
    with filled(dsn := server.database(), tmp_path) as services:
        lay(dsn)
        # As where a loader had made them, in the place of this superuser.
        _do(dsn, *(f"alter table analytics.{name} owner to loader" for name in _MADE))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("ANALYTICS_LAKE", str(services.lake.root))
        monkeypatch.setenv("ANALYTICS_BACKUPS", str(services.settings.backups))
        yield services


@pytest.fixture
def stranger(server: Server) -> Iterator[str]:
    """A role that we did not make; it may be gone before the test is over."""
    name = f"t_grafana_{secrets.token_hex(4)}"
    _do(server.dsn("postgres"), f"create role {name}")
    yield name
    _forget(server, name)


def _do(dsn: str, *statements: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            done = connection.execute(statement.encode())
        return done.fetchall() if done.description else []


def _forget(server: Server, role: str) -> None:
    """The role is gone from the server."""
    holding = _do(
        server.dsn("postgres"),
        "select distinct d.datname from pg_shdepend s join pg_database d on d.oid = s.dbid "
        f"where s.refobjid = to_regrole('{role}')",
    )
    for (database,) in holding:
        _do(server.dsn(database), f"drop owned by {role}")
    _do(server.dsn("postgres"), f"drop role if exists {role}")


def _restored(services: Services, backup: Backup, dsn: str) -> list[str]:
    vault = open_vault(services)
    with workplace(vault) as work:
        return [left.statement for left in restore(vault, backup, dsn, work)]


def _into(backup: Backup, dsn: str, *options: str) -> int:
    # What this process keeps open for its next block would be somebody at work.
    _do(
        dsn,
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()",
    )
    return main(["restore", "--into", dsn, "--backup", backup.id, *options])


def _rights(dsn: str, *more: str) -> list[tuple[Any, ...]]:
    """Who owns what, and which role may do what with it; `more`: roles besides ours."""
    return _do(
        dsn,
        "select c.oid::regclass::text, c.relowner::regrole::text, role, privilege from pg_class c "
        f"cross join unnest(array{[*ROLES, *more]}) role "
        "cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate']) privilege "
        "where c.relnamespace::regnamespace::text = any('{analytics,personal,ops}') "
        "and c.relkind in ('r', 'p', 'v', 'm') and has_table_privilege(role, c.oid, privilege) "
        "union all select nspname, nspowner::regrole::text, role, privilege from pg_namespace "
        f"cross join unnest(array{[*ROLES, *more]}) role "
        "cross join unnest(array['usage', 'create']) privilege "
        "where nspname = any('{analytics,personal,ops,unpublished}') "
        "and has_schema_privilege(role, oid, privilege) order by 1, 2, 3, 4",
    )


def _defaults(dsn: str) -> list[tuple[Any, ...]]:
    return _do(
        dsn,
        "select defaclrole::regrole::text, defaclnamespace::regnamespace::text, defaclobjtype, "
        "defaclacl::text from pg_default_acl order by 1, 2, 3",
    )


def test_a_backup_comes_back_into_its_own_version_with_content_owners_and_rights(
    services: Services, server: Server, stranger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn, target = services.settings.require("warehouse_dsn"), server.empty()
    _do(
        dsn,
        f"grant usage on schema analytics to {stranger}",
        f"grant select on analytics.fct_visits to {stranger}",
        f"grant select (person_id) on analytics.dim_people to {stranger}",
        f"alter default privileges in schema analytics grant select on tables to {stranger}",
    )
    backup = take(services, unseen()).backup

    assert main(["restore", "--into", target, "--no-replay"]) == 0

    assert "could not be given back" not in capsys.readouterr().out
    assert notes_of(target) == backup.notes
    assert _rights(target, stranger) == _rights(dsn, stranger)
    assert _defaults(target) == _defaults(dsn)


def test_a_backup_comes_back_into_a_server_of_another_version_to_the_row(
    services: Services, server: Server, house: House
) -> None:
    """An upgrade by a backup, and the way back from it."""
    for other in (house.server(version) for version in VERSIONS):
        if other is not server:
            target = other.empty()
            backup = take(services, unseen()).backup
            assert main(["restore", "--into", target, "--no-replay"]) == 0
            assert notes_of(target) == backup.notes
            assert _rights(target) == _rights(services.settings.require("warehouse_dsn"))


def test_rights_of_a_role_that_the_server_lacks_are_told_and_all_else_comes_back(
    services: Services, server: Server, stranger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn, target = services.settings.require("warehouse_dsn"), server.empty()
    _do(
        dsn,
        f"grant select on analytics.fct_visits to {stranger}",
        f"alter default privileges for role {stranger} in schema analytics grant select on tables to reader",
    )
    before = _rights(dsn)
    backup = take(services, unseen()).backup
    _forget(server, stranger)

    assert main(["restore", "--into", target]) == 0

    said = capsys.readouterr().out
    assert f"  GRANT SELECT ON TABLE analytics.fct_visits TO {stranger};  -- role" in said
    assert said.count(stranger) == 2, "a default right of our own roles is laid by `python -m flows roles`"
    assert (
        notes_of(target)["analytics.fct_visits_2025_10_07"] == backup.notes["analytics.fct_visits_2025_10_07"]
    )
    assert {row[0] for row in before} <= {row[0] for row in _rights(target)}
    assert _do(target, "set role reader", "select count(*) from analytics.fct_visits") == [(500,)]


def test_a_restore_that_fails_says_what_postgresql_says(services: Services, server: Server) -> None:
    backup = take(services, unseen()).backup
    target = server.empty()
    _do(target, "create schema ops")
    with pytest.raises(ProgramError, match=r'schema "ops" already exists'):
        _restored(services, backup, target)


def test_what_others_have_in_the_database_is_neither_in_a_backup_nor_touched_by_a_restore(
    services: Services, server: Server, tmp_path: Path
) -> None:
    dsn = services.settings.require("warehouse_dsn")
    _do(
        dsn,
        "create schema past",
        "create table past.fct_visits as select 1 as a",
        "revoke all on schema past from public",
    )
    with login(dsn, "loader") as loader:
        by_loader = services_in(loader, tmp_path)
        with by_loader.lake:
            taken = take(by_loader, unseen())
    backup = taken.backup
    assert "Not in it: what others have in the schemas past of that database" in text_of(taken)

    assert _into(backup, dsn, "--yes", "--no-replay") == 0

    assert _do(dsn, "select a from past.fct_visits") == [(1,)]
    assert notes_of(dsn) == backup.notes


def test_of_a_dump_of_the_whole_database_only_what_is_ours_comes_back(
    services: Services, server: Server
) -> None:
    dsn, target = services.settings.require("warehouse_dsn"), server.empty()
    _do(
        dsn,
        "create schema past",
        "create table past.fct_visits as select 1 as a",
        "create view past.mine as select page from analytics.fct_visits",
        "create publication everything for table analytics.dim_people",
        "create schema more",
        *(["create extension vector schema more"] if server.version == 18 else []),
    )
    backup = take(services, unseen()).backup
    shutil.rmtree(backup.folder / DUMP)
    words = ["--format=directory", "--exclude-schema=unpublished", f"--file={backup.folder / DUMP}", dsn]
    subprocess.run([packaged_binaries() / "pg_dump", *words], check=True)
    _do(target, "create schema past")

    assert _restored(services, backup, target) == []

    # This dump was taken once the backup was entered.
    assert {**notes_of(target), "ops.backup": backup.notes["ops.backup"]} == backup.notes
    assert _do(target, "select count(*) from pg_class where relnamespace = 'past'::regnamespace") == [(0,)]
    assert _do(target, "select nspname from pg_namespace where nspname = 'more'") == []
    assert _do(target, "select pubname from pg_publication") == []


def test_what_others_have_built_on_ours_is_named_and_stops_a_restore_before_anything_is_dropped(
    services: Services, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = services.settings.require("warehouse_dsn")
    backup = take(services, unseen()).backup
    _do(
        dsn,
        "create schema bi",
        "create view bi.mine as select person_id from analytics.dim_people",
        "create materialized view bi.counted as select count(*) from bi.mine",
        "create table bi.notes (person_id bigint references analytics.dim_people)",
        "create publication people for table analytics.dim_people",
    )
    before = notes_of(dsn)

    assert _into(backup, dsn, "--yes") == 2

    said = capsys.readouterr().err
    for name in (
        "view bi.mine",
        "materialized view bi.counted",
        "on table bi.notes",
        "table analytics.dim_people in publication people",
    ):
        assert name in said
    assert said.count("bi.") == 3, "each once, and nothing that is a part of one"
    assert notes_of(dsn) == before
    with pytest.raises(InTheWay):
        clear(dsn)
    assert occupied(dsn)
    _do(dsn, "drop schema bi cascade", "drop publication people")
    assert _into(backup, dsn, "--yes", "--no-replay") == 0

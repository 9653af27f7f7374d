"""Nothing moves silently: what happens to a source halts its tables, with a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from flows.cdc.configuration import BEATS_KEPT, configuration
from flows.extract.connect import ConnectorState, TaskState
from flows.extract.debezium_guard import ANEW, KEY, marks_of, reasons
from flows.extract.debezium_observed import forgotten, lsn_number, lsn_text
from tests.flows.extract.guarded import HEARTBEAT, NAMES, USERS, Source, judge
from tests.flows.extract.sources import SourceServer, source_server
from tests.house import EACH_VERSION
from transforms.contract import Column


@pytest.fixture(scope="module", params=EACH_VERSION)
def server(request: pytest.FixtureRequest) -> Iterator[SourceServer]:
    """A server of this module, so that its settings may be changed."""
    with source_server(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def prepared(server: SourceServer) -> Source:
    return Source(server)


@pytest.fixture
def source(prepared: Source) -> Source:
    prepared.clear()
    return prepared


def test_a_source_that_is_as_it_was_halts_nothing(source: Source) -> None:
    before = source.look()
    source.server.run("insert into users select n, 'x' from generate_series(1, 100) n")
    assert judge(source.look(), before) == ""
    assert judge(before) == ""


def test_names_of_types_that_somebody_has_quoted_are_no_others(source: Source) -> None:
    """By an array of texts, of which Debezium tells all that it tells of texts."""
    source.server.run("alter table users add column tags text[]")
    tagged = replace(USERS, columns=(*USERS.columns, Column("tags", "varchar[]")))
    before = source.look().facts()
    source.server.run("alter role all set quote_all_identifiers = on")
    try:
        assert reasons(source.look(), [tagged], {tagged.table: before}) == {}
    finally:
        source.server.run("alter role all reset quote_all_identifiers")


@pytest.mark.parametrize(
    ("statement", "what", "next_step"),
    [
        (f"select pg_drop_replication_slot('{NAMES.slot}')", f"replication slot {NAMES.slot} is gone", ANEW),
        (f"drop publication {NAMES.publication}", f"publication {NAMES.publication} is gone", ANEW),
        (
            f"alter publication {NAMES.publication} drop table users",
            "public.users is not in publication",
            ANEW,
        ),
        (
            f"alter publication {NAMES.publication} set (publish = 'insert, delete')",
            f"publication {NAMES.publication} does not send every change (update, truncate left out)",
            ANEW,
        ),
        ("drop table users", "has no table public.users", "create it, or take it from the declarations"),
        (
            "alter table users replica identity nothing",
            "do not say which row they are about (replica identity nothing",
            "alter table public.users replica identity full",
        ),
        (
            "alter table users drop constraint users_pkey",
            "do not say which row they are about (replica identity default",
            "alter table public.users replica identity full",
        ),
    ],
)
def test_what_is_taken_away_from_the_source_halts_the_table(
    source: Source, statement: str, what: str, next_step: str
) -> None:
    before = source.look()
    source.server.run(statement)
    halt = judge(source.look(), before)
    assert halt.startswith("app.users is halted: ")
    assert what in halt
    assert halt.endswith(f"{next_step}.")
    assert "\n" not in halt


def test_a_table_dropped_and_made_anew_halts_though_somebody_published_it_again(source: Source) -> None:
    before = source.look()
    source.server.run(
        "drop table users",
        "create table users (id bigint primary key, label text)",
        f"alter publication {NAMES.publication} add table users",
    )
    assert "was made anew or taken out of" in judge(source.look(), before)


def test_a_publication_dropped_and_made_anew_halts(source: Source) -> None:
    before = source.look()
    source.server.run(
        f"drop publication {NAMES.publication}", f"create publication {NAMES.publication} for table users"
    )
    assert "so changes of it are lost" in judge(source.look(), before)


@pytest.mark.parametrize("part", ["(id)", "where (id > 5)"])
def test_a_publication_of_some_rows_or_columns_halts_though_it_was_so_from_the_first(
    source: Source, part: str
) -> None:
    source.server.run(
        f"drop publication {NAMES.publication}",
        f"create publication {NAMES.publication} for table users {part}",
    )
    halt = judge(source.look())
    assert f"publication {NAMES.publication} sends only some rows or columns of public.users" in halt
    assert halt.endswith(f"{ANEW}.")


@pytest.mark.parametrize("tables", ["all tables", "tables in schema public"])
def test_a_table_made_anew_halts_in_a_publication_that_names_none_too(source: Source, tables: str) -> None:
    made = f"create publication {NAMES.publication} for {tables}"
    source.server.run(f"drop publication {NAMES.publication}", made)
    before = source.look()
    assert judge(before) == ""
    assert judge(source.look(), before) == ""
    source.server.run("alter table users add column more text", "vacuum full users")
    assert judge(source.look(), before) == ""
    source.server.run("drop table users", "create table users (id bigint primary key, label text)")
    assert "was made anew or taken out of" in judge(source.look(), before)
    before = source.look()
    source.server.run(f"drop publication {NAMES.publication}", made)
    assert "so changes of it are lost" in judge(source.look(), before)


@pytest.mark.parametrize("identity", ["full", "using index users_other"])
def test_a_table_without_primary_key_is_captured_when_its_identity_names_its_rows(
    source: Source, identity: str
) -> None:
    source.server.run(
        "alter table users drop constraint users_pkey",
        "create unique index users_other on users (id)",
        "alter table users alter id set not null",
        f"alter table users replica identity {identity}",
    )
    assert judge(source.look()) == ""


@pytest.mark.parametrize(
    ("statements", "identity"),
    [
        (
            ("alter table users drop constraint users_pkey", "alter table users add primary key (label)"),
            "default",
        ),
        (
            (
                "create unique index users_other on users (label)",
                "alter table users alter label set not null",
                "alter table users replica identity using index users_other",
            ),
            "index",
        ),
    ],
)
def test_an_identity_without_the_declared_key_halts(
    source: Source, statements: tuple[str, ...], identity: str
) -> None:
    source.server.run(*statements)
    halt = judge(source.look())
    assert f"(replica identity {identity}, without id); alter table public.users" in halt
    # What was told meanwhile names rows by another key: what became of them nobody knows.
    assert halt.endswith(f"replica identity full, then read everything again: {ANEW}.")


def test_a_key_by_which_rows_were_not_told_halts_and_another_name_of_it_does_not(source: Source) -> None:
    known = {USERS.table: source.look().facts() | {KEY: ["number"]}}
    halt = reasons(source.look(), [USERS], known)[USERS.table]
    assert "its key was number before" in halt
    assert halt.endswith(f"{ANEW}.")
    columns = (Column("id", "bigint", nullable=False, formerly=("number",)), *USERS.columns[1:])
    assert reasons(source.look(), [replace(USERS, columns=columns)], known) == {}


def test_a_slot_of_another_plugin_halts(source: Source) -> None:
    source.server.run(
        f"select pg_drop_replication_slot('{NAMES.slot}')",
        f"select pg_create_physical_replication_slot('{NAMES.slot}')",
    )
    halt = judge(source.look())
    assert f"replication slot {NAMES.slot} is of plugin physical, not pgoutput" in halt
    assert f"select pg_drop_replication_slot('{NAMES.slot}')" in halt


def test_a_slot_that_kept_too_much_and_was_invalidated_halts(source: Source) -> None:
    before = source.look()
    source.server.run("alter system set max_slot_wal_keep_size = '1MB'", "select pg_reload_conf()")
    try:
        for _ in range(4):
            source.server.run(
                "select pg_logical_emit_message(false, 'x', repeat('x', 1000000))", "select pg_switch_wal()"
            )
        source.server.run("checkpoint")
        seen = source.look()
        assert seen.slot is not None
        assert seen.slot.wal_status == "lost"
        assert seen.keep_limit == 1 << 20
        halt = judge(seen, before)
        assert f"PostgreSQL has invalidated replication slot {NAMES.slot}" in halt
        assert halt.endswith(f"{ANEW}.")
    finally:
        source.server.run("alter system reset max_slot_wal_keep_size", "select pg_reload_conf()")


def test_wal_that_the_slot_keeps_is_counted(source: Source) -> None:
    before = source.look().slot
    # Of a transaction, it is written by the time that this returns.
    source.server.run("select pg_logical_emit_message(true, 'x', repeat('x', 3000000))")
    after = source.look().slot
    assert before is not None
    assert after is not None
    assert 3_000_000 <= after.kept - before.kept < 6_000_000


@pytest.mark.parametrize(
    ("state", "what", "next_step"),
    [
        (None, "no connector captures it", "python -m flows cdc register"),
        (ConnectorState(TaskState("PAUSED"), (TaskState("PAUSED"),)), "paused", "python -m flows cdc resume"),
        (ConnectorState(TaskState("STOPPED"), ()), "stopped", "python -m flows cdc resume"),
        (
            ConnectorState(TaskState("RUNNING"), (TaskState("FAILED", "The disk is full"),)),
            "has failed (The disk is full)",
            "python -m flows cdc resume",
        ),
        (ConnectorState(TaskState("UNASSIGNED"), ()), "no worker of Kafka Connect runs", "then run again"),
    ],
)
def test_a_connector_that_does_not_run_halts(
    source: Source, state: ConnectorState | None, what: str, next_step: str
) -> None:
    halt = judge(source.look(state=state))
    assert what in halt
    assert halt.endswith(f"{next_step}.")


def test_a_new_registration_voids_what_was_remembered(source: Source) -> None:
    """It reads every table whole, so where the one before had got to says nothing."""
    before = replace(source.look(), system="0", timeline=9, database=1, lsn=1 << 60)
    assert "another PostgreSQL cluster" in judge(source.look(), before)
    assert judge(source.look(registration="second"), before) == ""


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"system": "0"}, "is another PostgreSQL cluster than the one read before"),
        ({"database": 1}, "was dropped and made anew"),
        ({"timeline": 7}, "went from timeline 7 to 1"),
        ({"lsn": 1 << 60}, "before 10000000/0 which was seen already (restored from an older backup)"),
    ],
)
def test_another_source_than_the_one_remembered_halts(
    source: Source, changed: dict[str, object], what: str
) -> None:
    seen = source.look()
    halt = judge(seen, replace(seen, **changed))  # type: ignore[arg-type]
    assert what in halt
    assert halt.endswith(f"{ANEW}.")


def test_an_lsn_is_a_number_and_a_text() -> None:
    assert lsn_text(lsn_number("16/B374D848")) == "16/B374D848"
    assert lsn_number("1/0") > lsn_number("0/FFFFFFFF")


def test_a_source_that_forgot_a_heartbeat_halts_though_its_log_has_grown_since(source: Source) -> None:
    source.server.run(HEARTBEAT[-1])
    before = source.look()
    facts = {USERS.table: before.facts()}
    marks = marks_of(facts.values())
    source.server.run(HEARTBEAT[-1])
    assert forgotten(source.server.dsn, NAMES, marks) == frozenset()
    source.server.run(f"delete from {NAMES.heartbeat} where mark = '{before.mark}'")
    missing = forgotten(source.server.dsn, NAMES, marks)
    assert missing == {before.mark}
    (halt,) = reasons(source.look(), [USERS], facts, missing).values()
    assert "no longer knows a heartbeat that was seen in it (restored from an older backup" in halt
    assert reasons(source.look(registration="second"), [USERS], facts, missing) == {}
    source.server.run(f"delete from {NAMES.heartbeat}")
    assert forgotten(source.server.dsn, NAMES, marks) == missing


def test_a_heartbeat_that_is_older_than_all_that_are_kept_proves_nothing(source: Source) -> None:
    facts = source.look().facts()
    source.server.run(*HEARTBEAT[-1:] * 2, f"delete from {NAMES.heartbeat} where beat <= {facts['beat']}")
    assert forgotten(source.server.dsn, NAMES, marks_of([facts])) == frozenset()
    # What was remembered before numbers were has nothing that tells how old it is.
    del facts["beat"]
    assert forgotten(source.server.dsn, NAMES, marks_of([facts])) == {facts["mark"]}


def test_a_connector_that_comes_back_after_weeks_lets_go_of_no_heartbeat_that_is_remembered(
    source: Source,
) -> None:
    beat = configuration(NAMES, [], "host=h dbname=d user=u", "first")["heartbeat.action.query"]
    facts = source.look().facts()
    source.server.run(f"update {NAMES.heartbeat} set beaten_at = now() - interval '30 days'", beat, beat)
    assert forgotten(source.server.dsn, NAMES, {facts["mark"]: None}) == frozenset()
    many = f"select gen_random_uuid() from generate_series(1, {BEATS_KEPT})"
    source.server.run(f"insert into {NAMES.heartbeat} (mark) {many}", beat)
    ((kept,),) = source.server.run(f"select count(*) from {NAMES.heartbeat}")
    assert kept == BEATS_KEPT + 1


def test_a_role_that_may_not_replicate_is_told_so_and_not_that_changes_are_lost(source: Source) -> None:
    source.server.run("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
    refused = TaskState("FAILED", "org.postgresql.util.PSQLException: permission denied to start WAL sender")
    reason = judge(source.look(state=ConnectorState(TaskState("RUNNING"), (refused,))))
    assert "alter role … replication" in reason
    assert "lost" not in reason
    assert "python -m flows cdc resume" in reason

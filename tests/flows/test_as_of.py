"""What a rebuild as of a moment looks through."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import duckdb
import pytest

from flows.as_of import _Past
from flows.moment import AsOfError, Moment
from transforms import engine, registry

RAW = "raw_app__users"
MODELS = ["stg_app__users", "dim_users_history"]
"""Two that read it and nothing else."""


@pytest.mark.parametrize(("moment", "looks"), [("2025-11-03T12:00", 1), ("0/20", 2)])
def test_raw_is_looked_through_as_often_as_one_model_asks_though_several_read_it(
    moment: str, looks: int
) -> None:
    models = [registry.table(name) for name in MODELS]
    assert all(model.upstreams == (RAW,) for model in models)
    with duckdb.connect() as session:
        session.execute(
            "create table landed as select 1 as id, 16 as _lsn, 15 as _commit_lsn, 7 as _transaction, "
            "'r' as _op, 'c' as _change, "
            "timestamptz '2025-11-03 09:00+00' as _registered_at, "
            "timestamptz '2025-11-03 10:00+00' as _changed_at, "
            "timestamptz '2025-11-03 10:01+00' as _landed_at"
        )
        asked: list[str] = []

        class Rows:
            """The table, and what was aggregated of it."""

            def __init__(self, rows: Any) -> None:
                self._rows, self.columns = rows, rows.columns

            def filter(self, condition: str) -> Rows:
                return Rows(self._rows.filter(condition))

            def project(self, columns: str) -> Any:
                return self._rows.project(columns)

            def limit(self, number: int) -> Any:
                return self._rows.limit(number)

            def aggregate(self, what: str) -> Any:
                asked.append(what)
                return self._rows.aggregate(what)

        def rows(_: Any, table: Any) -> Any:
            return Rows(session.table("landed")) if table.name == RAW else None

        made = mock.patch.object(engine, "run", return_value=session.sql("select 1 as id"))
        with mock.patch.object(_Past, "_rows", rows), made:
            nowhere: Any = SimpleNamespace(lake=None)
            past = _Past(nowhere, session, Moment.parse(moment))
            past.compute(models[0])
            once = len(asked)
            past.compute(models[1])
        assert (once, len(asked)) == (looks, looks), asked


@pytest.mark.parametrize(
    ("lsn", "known"),
    [
        ("0/5F", ["an earlier one"]),
        ("0/A0", ["an earlier one"]),
        ("0/C8", ["an earlier one", "a user", "another user", "their order"]),
        ("0/DC", ["an earlier one", "a user", "another user", "a patient one", "their order"]),
    ],
)
def test_a_transaction_that_is_open_at_a_place_of_the_log_is_not_half_known(
    lsn: str, known: list[str]
) -> None:
    with duckdb.connect() as session:
        session.execute(
            "create table landed as select *, 'r' as _op, 'c' as _change, "
            "timestamptz '2025-11-03 09:00+00' as _registered_at, "
            "timestamptz '2025-11-03 10:00+00' as _changed_at, "
            "timestamptz '2025-11-03 10:01+00' as _landed_at "
            "from (values ('users', 'an earlier one', 80, 70, 6), ('users', 'a user', 100, 90, 7), "
            "('users', 'another user', 150, 90, 7), "
            # It changed one row, and committed behind others.
            "('users', 'a patient one', 82, 210, 8), ('orders', 'their order', 200, 90, 7)) "
            "as told (entity, what, _lsn, _commit_lsn, _transaction)"
        )

        def rows(_: Any, table: Any) -> Any:
            entity = table.name.removeprefix("raw_app__")
            return session.table("landed").filter(f"entity = '{entity}'") if "app__" in table.name else None

        with mock.patch.object(_Past, "_rows", rows):
            nowhere: Any = SimpleNamespace(lake=None)
            past = _Past(nowhere, session, Moment.parse(lsn))
            found = [
                what
                for name in ("raw_app__users", "raw_app__orders")
                if (there := past._known_then(name)) is not None
                for (what,) in there.project("what").fetchall()
            ]
    assert found == known


def known(moment: str, *rows: tuple[object, ...]) -> list[str]:
    """What is known then of rows of (what, _op, _change, _changed_at, _landed_at, _registered_at, _lsn,
    _commit_lsn), times of one day.
    """
    with duckdb.connect() as session:
        session.execute(
            "create table landed (what varchar, _op varchar, _change varchar, _changed_at timestamptz, "
            "_landed_at timestamptz, _registered_at timestamptz, _lsn bigint, _commit_lsn bigint, "
            "_transaction bigint)"
        )
        for what, op, change, *times, lsn, commit in rows:
            at = [f"2025-11-03 {time}+00" if time else None for time in times]
            session.execute(
                "insert into landed values (?, ?, ?, ?, ?, ?, ?, ?, null)",
                [what, op, change, *at, lsn, commit],
            )

        def relation(_: Any, table: Any) -> Any:
            return session.table("landed") if table.name == RAW else None

        with mock.patch.object(_Past, "_rows", relation):
            nowhere: Any = SimpleNamespace(lake=None)
            there = _Past(nowhere, session, Moment.parse(moment))._known_then(RAW)
            assert there is not None
            return [what for (what,) in there.project("what").fetchall()]


READ = ("read", "r", "r", None, "09:00", "08:00", 10, None)
TOLD = ("told", "r", "u", "10:00:00.000001", "10:30", "08:00", 20, 15)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2025-11-03T09:00:00", ["read"]),
        ("2025-11-03T10:00:00", ["read"]),
        ("2025-11-03T10:00:00.000001", ["read", "told"]),
        ("2025-11-03T10:00:00.000002", ["read", "told"]),
    ],
)
def test_a_change_counts_from_its_commit_on_and_a_row_that_was_read_from_its_landing(
    time: str, expected: list[str]
) -> None:
    assert known(time, READ, TOLD) == expected


def test_rows_of_a_table_that_tells_no_changes_count_from_their_landing_on() -> None:
    with duckdb.connect() as session:
        session.execute(
            "create table landed as select 'r' as _op, timestamptz '2025-11-03 10:00+00' as _landed_at"
        )

        def relation(_: Any, table: Any) -> Any:
            return session.table("landed") if table.name == RAW else None

        nowhere: Any = SimpleNamespace(lake=None)
        with mock.patch.object(_Past, "_rows", relation):
            past = _Past(nowhere, session, Moment.parse("2025-11-03T10:00"))
            assert len(past._known_then(RAW) or ()) == 1
            with pytest.raises(AsOfError, match="holds nothing as old as"):
                _Past(nowhere, session, Moment.parse("2025-11-03T09:59:59.999999"))


@pytest.mark.parametrize(
    ("lsn", "expected"),
    [
        ("0/1F3", []),
        ("0/1F4", ["first"]),
        ("0/384", ["first", "second", "anew"]),
        ("0/1388", ["first", "second", "anew"]),
    ],
)
def test_a_place_is_one_of_the_newest_registration_that_had_told_anything_by_then(
    lsn: str, expected: list[str]
) -> None:
    rows = (
        ("first", "r", "u", "09:00", "09:01", "08:00", 500, 400),
        ("second", "r", "u", "09:10", "09:11", "08:00", 5000, 4900),
        ("anew", "r", "r", None, "11:00", "11:00", 900, None),
    )
    if expected:
        assert known(lsn, *rows) == expected
    else:
        with pytest.raises(AsOfError, match="no change as old as LSN 0/1F3: those it holds begin at 0/1F4"):
            known(lsn, *rows)


def test_what_has_no_log_is_known_as_of_when_the_last_table_was_landed_up_to_the_place() -> None:
    with duckdb.connect() as session:
        session.execute(
            "create table landed as select *, 'u' as _change, _lsn as _transaction, _lsn - 5 as _commit_lsn "
            "from (values ('raw_app__users', 20, timestamptz '2025-11-03 10:00+00'), "
            "('raw_app__orders', 30, timestamptz '2025-11-03 11:00+00'), "
            "('raw_app__orders', 90, timestamptz '2025-11-03 12:00+00')) as told (entity, _lsn, _landed_at)"
        )

        def rows(_: Any, table: Any) -> Any:
            found = session.table("landed").filter(f"entity = '{table.name}'")
            if "app__" in table.name:
                return found
            read = session.sql("select timestamptz '2025-11-03 10:59+00' as _landed_at, 'r' as _op")
            return read if table.name == "raw_stripe__charges" else None

        with mock.patch.object(_Past, "_rows", rows):
            nowhere: Any = SimpleNamespace(lake=None)
            past = _Past(nowhere, session, Moment.parse("0/28"))
            assert len(past._known_then("raw_stripe__charges") or ()) == 1


TOMBSTONE = ("nothing", None, None, None, "10:30", "08:00", None, None)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # Its first read came with the first changes, and is later than they.
        ((TOLD, ("read", "r", "r", None, "10:30", "08:00", 10, None)), None),
        # A table without a row is never read; a tombstone says no time of its own, and is no row.
        ((TOLD, TOMBSTONE), ["told"]),
        # What is read again later is not its first read.
        (
            (
                ("told", "r", "u", "09:00", "09:01", "08:00", 20, 15),
                ("again", "r", "r", None, "10:30", "08:00", 30, None),
            ),
            ["told"],
        ),
    ],
)
def test_what_a_table_was_before_it_was_first_read_is_refused_and_an_empty_one_was_never_read(
    rows: tuple[tuple[object, ...], ...], expected: list[str] | None
) -> None:
    if expected is None:
        with pytest.raises(AsOfError, match="was read whole for the first time"):
            known("2025-11-03T10:15", *rows)
    else:
        assert known("2025-11-03T10:15", *rows) == expected

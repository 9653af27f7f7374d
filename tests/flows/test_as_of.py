"""What a rebuild as of a moment looks through."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import duckdb
import pytest

from flows import as_of
from flows.as_of import AsOfError, Moment, _Past
from transforms import registry

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

        made = mock.patch.object(as_of.engine, "run", return_value=session.sql("select 1 as id"))
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
            "('users', 'another user', 150, 90, 7), ('orders', 'their order', 200, 90, 7)) "
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


@pytest.mark.parametrize("first_read", [True, False])
def test_what_a_table_was_before_it_was_first_read_is_refused_and_an_empty_one_was_never_read(
    first_read: bool,
) -> None:
    """A tombstone says no time of its own, and is no row that was read."""
    with duckdb.connect() as session:
        session.execute(
            "create table landed as select *, 16 as _lsn, 15 as _commit_lsn, 7 as _transaction, 'r' as _op, "
            "timestamptz '2025-11-03 09:00+00' as _registered_at, "
            "timestamptz '2025-11-03 10:01+00' as _landed_at "
            "from (values ('c', timestamptz '2025-11-03 10:00+00'), (?, null)) "
            "as told (_change, _changed_at)",
            ["r" if first_read else "t"],
        )

        def rows(_: Any, table: Any) -> Any:
            return session.table("landed") if table.name == RAW else None

        with mock.patch.object(_Past, "_rows", rows):
            nowhere: Any = SimpleNamespace(lake=None)
            past = _Past(nowhere, session, Moment.parse("2025-11-03T10:00:30"))
            if first_read:
                with pytest.raises(AsOfError, match="was read whole for the first time"):
                    past._known_then(RAW)
            else:
                assert past._known_then(RAW) is not None

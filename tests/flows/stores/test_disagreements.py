"""Where PostgreSQL holds, or took in, something else than the lake: it is told and nothing is shown."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from flows.stores import standalone
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import WarehouseError
from tests.flows.stores.world import DAY, EVENTS, USERS, built, create, rows, tidy, visits
from transforms.contract import Table

CONTENT = {
    EVENTS.name: visits(DAY, 300),
    USERS.name: "SELECT i AS person_id, 'n' || i AS name, NULL::JSON AS properties FROM range(300) t(i)",
}
MEDDLED = {
    "a row to be changed is gone": (
        "DELETE FROM analytics.{table} WHERE {key} = 3",
        "SELECT * REPLACE (CASE WHEN {key} = 3 THEN 'other' ELSE {text} END AS {text}) FROM ({content})",
        "of 0 rows to delete and 1 to update, 0 and 0 were there; of 0 to insert, 0 were",
    ),
    "a row to be deleted is gone": (
        "DELETE FROM analytics.{table} WHERE {key} = 3",
        "SELECT * FROM ({content}) WHERE {key} <> 3",
        "of 1 rows to delete and 0 to update, 0 and 0 were there; of 0 to insert, 0 were",
    ),
    "a row to be inserted is there": (
        "INSERT INTO analytics.{table} SELECT (jsonb_populate_record(t, '{{\"{key}\": 300}}')).* "
        "FROM analytics.{table} t WHERE {key} = 299",
        "SELECT * FROM ({content}) UNION ALL "
        "SELECT * REPLACE (300 AS {key}) FROM ({content}) WHERE {key} = 299",
        "of (0 rows .*; of 1 to|1 rows to) insert, (1|some) were there already",
    ),
}


@pytest.mark.parametrize("meddled", MEDDLED)
@pytest.mark.parametrize("table", [EVENTS, USERS], ids=["leaf", "merged"])
def test_what_postgresql_holds_against_the_lake_is_told_not_written_over_until_it_is_made_equal(
    dsn: str, warehouse: Warehouse, lake: Lake, table: Table, meddled: str
) -> None:
    create(dsn, table)
    partition = DAY if table is EVENTS else ""
    names = {
        "table": table.name,
        "key": table.key[0],
        "text": "page" if table is EVENTS else "name",
        "content": CONTENT[table.name],
    }
    by_hand, after, told = (text.format(**names) for text in MEDDLED[meddled])
    first = built(lake, table, partition, CONTENT[table.name], batch="b1")
    publish(table, [first], warehouse=warehouse, lake=lake)
    with psycopg.connect(dsn) as somebody:
        assert somebody.execute(by_hand.encode()).rowcount == 1
    before = rows(dsn, table.name), _ledger(warehouse)
    target = table.leaf(DAY) if table is EVENTS else table.name

    second = built(lake, table, partition, after, batch="b2")
    told = f"^analytics.{target} is not what the lake says was published: {told}.* `python -m flows rebuild "
    with pytest.raises(WarehouseError, match=f"{told}{table.name}`"):
        publish(table, [second], warehouse=warehouse, lake=lake, views=["mv_visits"])

    assert (rows(dsn, table.name), _ledger(warehouse)) == before
    assert tidy(dsn, lake)["left"] == []

    mended = built(lake, table, partition, after, batch="b3", in_full=True)
    publish(table, [mended], warehouse=warehouse, lake=lake)

    with lake.duckdb() as session:
        expected = lake.read(session, mended.files).project(f"{table.key[0]}, {names['text']}").fetchall()
    text = [column.name for column in table.columns].index(names["text"])
    assert [(row[0], row[text]) for row in rows(dsn, table.name)] == sorted(expected)


def _ledger(warehouse: Warehouse) -> tuple[Any, ...]:
    """All that a publish enters."""
    with warehouse.connect() as connection:
        return (
            Ledger(connection).states(),
            *(
                connection.execute(f"SELECT * FROM ops.{name} ORDER BY 1, 2".encode()).fetchall()
                for name in ("ledger", "refresh_owed", "pending_publish", "hot_partition")
            ),
        )


LOSSES = {
    "a row": ("visit_id <> 3", "0", "the number of rows is 299 after COPY, 300 in the lake"),
    "a cent": ("true", "0.01 * (new.visit_id = 3)::int", "the sum of paid is 448.51 after COPY, 448.50"),
}


@pytest.mark.parametrize("small_rows", [standalone._SMALL_ROWS, 10], ids=["small", "large"])
@pytest.mark.parametrize("loss", LOSSES)
def test_what_was_not_loaded_as_the_lake_has_it_is_never_shown(
    dsn: str, warehouse: Warehouse, lake: Lake, loss: str, small_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "_SMALL_ROWS", small_rows)
    create(dsn, EVENTS)
    *how, told = LOSSES[loss]
    _lose(dsn, *how)
    before = _ledger(warehouse)
    day = built(lake, EVENTS, DAY, visits(DAY, 300), batch="b1")

    with pytest.raises(WarehouseError, match=f"^fct_visits_2025_10_07: {told}"):
        publish(EVENTS, [day], warehouse=warehouse, lake=lake, views=["mv_visits"])

    assert (rows(dsn, "fct_visits"), _ledger(warehouse)) == ([], before)
    assert lake.manifest("facts", "fct_visits") == []
    left = tidy(dsn, lake)
    assert (left["dropped"], left["left"]) == ([], [])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_difference_that_was_not_loaded_as_the_lake_has_it_is_never_shown(
    dsn: str, warehouse: Warehouse, lake: Lake, loss: str
) -> None:
    create(dsn, EVENTS)
    stood = visits(DAY, 300)
    publish(EVENTS, [built(lake, EVENTS, DAY, stood, batch="b1")], warehouse=warehouse, lake=lake)
    before = rows(dsn, "fct_visits"), _ledger(warehouse)
    corrected = f"SELECT * REPLACE (if(visit_id = 3, 9.99, paid)::DECIMAL(10,2) AS paid) FROM ({stood})"
    second = built(lake, EVENTS, DAY, corrected, batch="b2")
    kept, cents, _ = LOSSES[loss]
    _lose(dsn, kept, cents)
    told = {
        "a row": "the number of rows is 0 after COPY, 1 in the lake",
        "a cent": "the sum of paid is 10.00 after COPY, 9.99",
    }

    with pytest.raises(WarehouseError, match=f"^fct_visits_2025_10_07: {told[loss]}"):
        publish(EVENTS, [second], warehouse=warehouse, lake=lake)

    assert (rows(dsn, "fct_visits"), _ledger(warehouse)) == before
    assert tidy(dsn, lake)["left"] == []


def _lose(dsn: str, kept: str, cents: str) -> None:
    """Let every table that is loaded from now on take rows in otherwise than they are sent."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            f"""
            CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                new.paid := new.paid + {cents};
                IF {kept.replace("visit_id", "new.visit_id")} THEN RETURN new; END IF;
                RETURN NULL;
            END $$;
            CREATE FUNCTION lose_in_new_tables() RETURNS event_trigger LANGUAGE plpgsql AS $$
            DECLARE made text;
            BEGIN
                FOR made IN SELECT object_identity FROM pg_event_trigger_ddl_commands()
                    WHERE command_tag = 'CREATE TABLE' AND schema_name = 'unpublished'
                LOOP
                    EXECUTE format(
                        'CREATE TRIGGER lose BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION lose()', made
                    );
                END LOOP;
            END $$;
            CREATE EVENT TRIGGER lose_in_new_tables ON ddl_command_end EXECUTE FUNCTION lose_in_new_tables()
            """.encode()
        )

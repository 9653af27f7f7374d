"""What people do to a source's tables, under each contract: applied, stopped or kept apart, never a null.

Real PostgreSQL, and real Debezium where changes are told; many tables pass through one connector.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import change_topics, evolution, landing, schema
from flows.change_landing import land_changes
from flows.declaration import declared_columns
from flows.extract import SourceError
from flows.extract.postgres_session import catalog
from flows.extract.schema_contract import CATALOG
from flows.extract.schema_differences import Remembered, differences
from flows.landing import Landing
from flows.services import Services
from tests.flows.capture import Capture, entity
from tests.flows.extract.alterations import DDL, Altered, Contract, Mode, every, redeclared
from tests.flows.streaming.topics import until
from tests.house import House
from transforms import changes, engine
from transforms.entities import Postgres, SourceEntity

RESNAPSHOT = "python -m flows cdc resnapshot"
EVERY: tuple[Contract, ...] = ("evolve", "freeze", "quarantine")


def prepared(house: House, folder: Path) -> Capture:
    return Capture.build(house, folder, warehouse_dsn=house.server().database())


def lander(services: Services) -> Callable[[SourceEntity], Landing | None]:
    def land(entity: SourceEntity) -> Landing | None:
        run_id = os.urandom(4).hex()
        if change_topics.of([entity]):
            return land_changes(services, [entity], run_id).of(entity)
        return landing.land(services, entity, run_id)

    return land


def seen(services: Services, entity: SourceEntity, columns: str) -> list[tuple[Any, ...]]:
    """The newest version of each key that is there, as models see it."""
    connection = engine.connect(threads=1)
    try:
        with services.ledger() as ledger:
            relation = services.lake.read(connection, ledger.files(entity.table))
        relation.create_view("files")
        text = "from files"
        if changes.is_of_changes(relation.columns):
            text = changes.typed(entity, text, relation.columns)
        elif any(column.formerly for column in entity.columns):
            own = ", ".join(
                f'{changes.as_read(column, relation.columns)} as "{column.name}"' for column in entity.columns
            )
            text = f"select {own}, _op, _landed_at, _seq from files"
        return connection.execute(
            f"select {columns} from ({text}) qualify row_number() over (partition by id "
            "order by _landed_at desc, _seq desc) = 1 and _op <> 'd' order by id"
        ).fetchall()
    finally:
        connection.close()


def asked(services: Services, query: str) -> list[tuple[Any, ...]]:
    with services.ledger() as ledger:
        return ledger.connection.execute(query.encode()).fetchall()


def alter(capture: Capture, tables: Sequence[Altered]) -> None:
    for one in tables:
        capture.app(*one.sql(one.what.alter), *one.sql(one.what.third), *one.sql(one.what.fourth))


def check(services: Services, tables: Sequence[Altered]) -> None:
    counted = "select entity, count(*) from ops.dead_letter group by 1"
    letters = dict(asked(services, counted))
    for one in tables:
        recorded = asked(
            services, f"select change from ops.schema_change where table_name = '{one.entity.table}'"
        )
        rows = seen(services, one.entity, "id, label")
        one.check(rows, letters.get(one.table, 0), [change for (change,) in recorded])


def accept(services: Services, dsn: str, one: Altered) -> SourceEntity:
    """What `schema diff --write` does to a declaration, without its file."""
    with services.ledger() as ledger:
        current = catalog(dsn, "public", one.table)
        remembered = Remembered.read(ledger.positions(one.entity.table).positions.get(CATALOG)).of(current)
        found = differences(one.entity, remembered, current)
        entity = redeclared(one, declared_columns(one.entity, found))
        schema.accept(ledger, schema.Compared(one.entity, current, remembered), entity, one.table)
    return entity


def assert_equal(capture: Capture, services: Services, entity: SourceEntity) -> None:
    texts = ", ".join(f"{column.name}::text" for column in entity.columns if column.name != "at")
    ours = seen(services, entity, ", ".join(f"{c.name}::varchar" for c in entity.columns if c.name != "at"))
    assert ours == capture.app(f"select {texts} from {entity.name} order by {entity.name}.id"), entity.name


@pytest.mark.parametrize(
    ("mode", "contracts"),
    [
        ("incremental", ("evolve",)),
        pytest.param("snapshot", ("quarantine",), marks=pytest.mark.full),
        pytest.param("incremental", EVERY, marks=pytest.mark.full),
        pytest.param("snapshot", EVERY, marks=pytest.mark.full),
    ],
)
def test_each_change_under_each_contract_of_a_table_that_is_read(
    house: House, tmp_path: Path, mode: Mode, contracts: tuple[Contract, ...]
) -> None:
    capture = prepared(house, tmp_path)
    services = Services(capture.settings)
    tables = list(every(mode, contracts))
    capture.app(*(statement for one in tables for statement in one.sql(DDL)))
    for one in tables:
        one.land(lander(services))
        assert one.stopped is None
    alter(capture, tables)
    for one in tables:
        one.land(lander(services))
    check(services, tables)
    for one in tables:
        told = one.landing
        one.land(lander(services))
        if one.outcome:
            assert one.landing is None or not one.landing.warnings, f"{one.table} told twice: {told}"
        # Declared as the source has it, the table goes on, and equals it where every row was read again.
        entity = accept(services, capture.settings.require("app_dsn"), one)
        lander(services)(entity)
        if one.outcome != "" and "-" in one.outcome and mode == "incremental":
            capture.app(f"update {one.table} set at = clock_timestamp()")
            lander(services)(entity)
        if mode == "snapshot" or one.what.change in ("renamed", "widened", "narrowed", "added"):
            assert_equal(capture, services, entity)
    services.lake.close()


@pytest.mark.full
def test_each_change_under_each_contract_of_a_table_that_is_captured(house: House, tmp_path: Path) -> None:
    captured(house, tmp_path, EVERY)


@pytest.mark.full
def test_what_evolves_in_a_table_that_is_captured_arrives_whole(house: House, tmp_path: Path) -> None:
    captured(house, tmp_path, ("evolve",), ("added", "renamed", "widened", "nullability"))


def captured(house: House, folder: Path, contracts: tuple[Contract, ...], only: Collection[str] = ()) -> None:
    capture = prepared(house, folder)
    services = Services(capture.settings)
    tables = [one for one in every("cdc", contracts) if not only or one.what.change in only]
    try:
        capture.app(*(statement for one in tables for statement in one.sql(DDL)))
        capture.register(*(one.entity for one in tables))
        for one in tables:
            until(lambda one=one: len(capture.ids(one.table)) == 2, seconds=60)  # type: ignore[misc]
            one.land(lander(services))
            assert one.stopped is None
        alter(capture, tables)
        for one in tables:
            until(lambda one=one: 4 in capture.ids(one.table), seconds=60)  # type: ignore[misc]
            one.land(lander(services))
        check(services, tables)
        assert_shown(services, tables)
        # Declared as the source has it, and read again where PostgreSQL has told no change of a row.
        declared = [accept(services, capture.settings.require("app_dsn"), one) for one in tables]
        for entity in declared:
            lander(services)(entity)
        capture.resnapshot(*declared)
        for entity in declared:
            until(lambda one=entity: len(capture.ids(one.name)) >= 8, seconds=60)  # type: ignore[misc]
            lander(services)(entity)
            assert_equal(capture, services, entity)
    finally:
        services.lake.close()
        capture.end()


def assert_shown(services: Services, tables: Sequence[Altered]) -> None:
    """A new column that evolves is seen in the lake's view before anybody declares it, with its type."""
    entity = next((one.entity for one in tables if one.table == "add_evolve"), None)
    if entity is None:
        return
    with services.ledger() as ledger:
        positions = ledger.positions("raw_app__add_evolve").positions
    shown = replace(entity, columns=(*entity.columns, *evolution.found(entity, positions)))
    assert [column.name for column in shown.columns][-1] == "colour"
    rows = seen(services, shown, "id, colour")
    assert rows == [(1, None), (2, None), (3, "red"), (4, None)]


@pytest.mark.full
def test_alters_between_two_landings_that_nothing_proves_stop_the_table(house: House, tmp_path: Path) -> None:
    """A record written under a catalog that nobody saw, without a declared column: it is no null."""
    capture = prepared(house, tmp_path)
    services = Services(capture.settings)
    (one,) = (one for one in every("cdc", ("evolve",)) if one.table == "rename_evolve")
    try:
        capture.app(*one.sql(DDL))
        capture.register(one.entity)
        until(lambda: len(capture.ids(one.table)) == 2, seconds=60)
        one.land(lander(services))
        capture.app(
            f"alter table {one.table} rename column label to other",
            f"insert into {one.table} (id, other) values (3, 'three')",
            f"alter table {one.table} rename column other to title",
            f"insert into {one.table} (id, title) values (4, 'four')",
        )
        until(lambda: 4 in capture.ids(one.table), seconds=60)
        one.land(lander(services))
        assert one.stopped is not None
        said = str(one.stopped)
        assert "a record has no column label, and the database does, from offset " in said
        assert said.endswith(f"become dead letters; then {RESNAPSHOT} {one.table} brings their rows.")
        assert [row[0] for row in seen(services, one.entity, "id")] == [1, 2]
    finally:
        services.lake.close()
        capture.end()


@pytest.mark.full
def test_a_column_that_was_made_anew_unseen_comes_back_the_way_that_the_message_says(
    house: House, tmp_path: Path
) -> None:
    """What changed while the table had no such column is told of a table that has it: neither the table nor
    its declaration can be brought in line any further."""
    capture = prepared(house, tmp_path)
    services = Services(capture.settings)
    land = lander(services)
    (one,) = (one for one in every("cdc", ("evolve",)) if one.table == "rename_evolve")
    try:
        capture.app(*one.sql(DDL))
        capture.register(one.entity)
        until(lambda: len(capture.ids(one.table)) == 2, seconds=60)
        land(one.entity)
        capture.app(
            f"alter table {one.table} drop column label",
            f"insert into {one.table} (id) values (3)",
            f"alter table {one.table} add column label text",
            f"update {one.table} set label = 'made anew'",
        )
        until(lambda: 3 in capture.ids(one.table), seconds=60)
        with pytest.raises(SourceError, match=r"column label .* is another one than it was"):
            land(one.entity)
        now = accept(services, capture.settings.require("app_dsn"), one)
        with pytest.raises(SourceError, match=rf"a record has no column label.*quarantine.*{RESNAPSHOT}"):
            land(now)

        assert isinstance(now.read, Postgres)
        kept_apart = replace(now, read=replace(now.read, on_change="quarantine"))
        landed = land(kept_apart)
        assert landed is not None
        assert landed.dead_letters == 1
        capture.resnapshot(now)
        until(lambda: capture.ids(one.table).count(3) == 3, seconds=60)
        land(now)
        assert seen(services, now, "id, label") == [(key, "made anew") for key in (1, 2, 3)]
    finally:
        services.lake.close()
        capture.end()


@pytest.mark.full
def test_a_column_that_postgresql_computes_is_none_that_changes_are_held_to(
    house: House, tmp_path: Path
) -> None:
    """Debezium's reads of a table have it, and its changes do not."""
    capture = prepared(house, tmp_path)
    names = {"stored": EVERY, "virtual": EVERY[:1]}
    tables = {f"{kind}_{one}": (kind, one) for kind, contracts in names.items() for one in contracts}
    entities = [
        replace(entity(name), read=Postgres(name, mode="cdc", on_change=contract))
        for name, (_, contract) in tables.items()
    ]
    services = Services(capture.settings)
    try:
        for name, (kind, _) in tables.items():
            capture.app(
                f"create table {name} (id bigint primary key, "
                f"twice bigint generated always as (id * 2) {kind}, label text)",
                f"insert into {name} (id, label) values (1, 'a'), (2, 'b')",
            )
        capture.register(*entities)
        until(lambda: all(len(capture.events(name)) == 2 for name in tables), seconds=60)
        land = lander(services)
        for one in entities:
            landed = land(one)
            assert landed is not None
            assert (landed.rows, landed.dead_letters, landed.warnings) == (2, 0, ()), one.name
        for name in tables:
            capture.app(f"update {name} set label = 'x' where id = 1")
        capture.app("alter table stored_evolve rename label to tag", "update stored_evolve set tag = 'y'")
        until(lambda: len(capture.events("stored_evolve")) == 5, seconds=60)
        for one in entities:
            landed = land(one)
            assert landed is not None
            assert landed.dead_letters == 0, one.name
            expected = [(1, "y"), (2, "y")] if one.name == "stored_evolve" else [(1, "x"), (2, "b")]
            assert seen(services, one, "id, label") == expected, one.name
    finally:
        services.lake.close()
        capture.end()

"""Tables of somebody else's application: whatever they and their columns are called."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal

import duckdb
import pytest

from flows import lakeshell
from flows.extract import SourceRefused
from tests.flows.extract.parts import World
from transforms import registry
from transforms.contract import Column, ContractError
from transforms.entities import Postgres, SourceEntity

ODD = SourceEntity(
    source="app",
    name="order_lines",
    read=Postgres('Order"Lines', schema="Odd Schema", mode="incremental", cursor='updated "at"'),
    key=('line"s id', "it's"),
    grain="one row per line",
    columns=(
        Column('line"s id', "integer"),
        Column("it's", "varchar"),
        Column("camelCase", "varchar"),
        Column("select", "integer"),
        Column("with space", "varchar[]"),
        Column('updated "at"', "timestamptz"),
    ),
)
DDL = (
    'create schema "Odd Schema"',
    'create table "Odd Schema"."Order""Lines" ("line""s id" integer, "it\'s" text, "camelCase" text, '
    '"select" integer, "with space" text[], "updated ""at""" timestamptz, '
    'primary key ("line""s id", "it\'s"))',
    "insert into \"Odd Schema\".\"Order\"\"Lines\" select n, 'a', 'b', n, array['c'], '2025-10-01' "
    "from generate_series(1, 3) as n",
)
SHOWN = 'select "line""s id", "camelCase" from raw_app__order_lines where _op = ? order by _landed_at, _seq'


@pytest.mark.parametrize("deletes", ["remove", "mark"])
@pytest.mark.parametrize("mode", ["incremental", "snapshot"])
def test_quotes_blanks_and_keywords_are_names_as_any_other(
    world: World, mode: Literal["incremental", "snapshot"], deletes: Literal["remove", "mark"]
) -> None:
    assert isinstance(ODD.read, Postgres)
    odd = replace(ODD, read=replace(ODD.read, mode=mode, deletes=deletes))
    world.app(*DDL)
    assert world.land_rows(odd) == 3
    assert world.land(odd) is None
    world.app(
        'update "Odd Schema"."Order""Lines" set "camelCase" = \'new\', "updated ""at""" = now() '
        'where "line""s id" = 1',
        'delete from "Odd Schema"."Order""Lines" where "line""s id" = 3',
    )
    # Whole tables are landed whole; a delete each.
    assert world.land_rows(odd) == (2 if mode == "incremental" else 3)
    assert world.land(odd) is None
    assert world.raw(odd, 'select "line""s id", "it\'s" from raw where _op = \'d\'') == [(3, "a")]

    table = registry.raw_table(odd)
    services = world.services()
    with services.ledger() as ledger, duckdb.connect() as connection:
        files = {table.name: ledger.files(table.name)}
        for shown in ({}, files):  # a table that has no file yet, too
            text = lakeshell.lake_sql(services.lake.root, [table], shown, {table.name: odd})
            connection.execute(text)
        assert connection.execute(SHOWN, ["d"]).fetchall() == [(3, "b" if deletes == "mark" else None)]
        assert (1, "new") in connection.execute(SHOWN, ["r"]).fetchall()


@pytest.mark.parametrize("mode", ["incremental", "snapshot"])
def test_a_column_whose_name_raw_has_already_is_left_out_and_that_is_said(
    world: World, mode: Literal["incremental", "snapshot"]
) -> None:
    lines = SourceEntity(
        source="app",
        name="lines",
        read=Postgres("lines", mode=mode, cursor="at" if mode == "incremental" else None),
        key=("id",),
        grain="one row per line",
        columns=(Column("id", "integer"), Column("at", "timestamptz")),
    )
    world.app(
        "create table lines (id integer primary key, at timestamptz default now(), note text)",
        'alter table lines add column "ID" text, add column landed_on date, add column _seq integer, '
        'add column "Note" text, add column _mine text',
        "insert into lines values (1, now(), 'n', 'other', '2001-01-01', 7, 'N', 'm')",
    )
    landing = world.land(lines)
    assert landing is not None
    names = ("ID", "landed_on", "_seq", "Note", "_mine", "note")
    told = {name: next(w for w in landing.warnings if f"column {name} " in w) for name in names}
    assert {name: said.partition("declared. ")[2].partition(":")[0] for name, said in told.items()} == {
        "ID": "It is not kept",
        "landed_on": "It is not kept",
        "_seq": "It is not kept",
        "Note": "It is not kept",
        "_mine": "It is not kept before it is declared",
        "note": "It is kept and shown in raw; python -m flows schema diff --write declares it for models.",
    }
    assert "Rename it in the database" in told["ID"]
    assert world.raw(lines, "select id, note, _seq from raw") == [(1, "n", 0)]
    assert "other" not in str(world.raw(lines))


def test_a_row_that_can_not_be_held_is_kept_whole_where_the_table_has_a_column_called_source(
    world: World,
) -> None:
    visits = SourceEntity(
        source="app",
        name="visits",
        read=Postgres("visits"),
        key=("id",),
        grain="one row per visit",
        columns=(Column("id", "integer"), Column("source", "varchar"), Column("at", "timestamptz")),
    )
    world.app(
        "create table visits (id integer primary key, source text, at timestamptz)",
        "insert into visits values (1, 'mail', 'infinity'), (2, 'web', '2025-10-01')",
    )
    assert world.land_rows(visits) == 1
    ((payload,),) = world.warehouse("select payload from ops.dead_letter")
    assert json.loads(bytes(payload)).items() >= {"id": 1, "source": "mail", "at": "infinity"}.items()


def test_a_materialized_view_is_refused_with_the_view_that_can_be_read(world: World) -> None:
    totals = SourceEntity(
        source="app",
        name="totals",
        read=Postgres("totals"),
        key=("id",),
        grain="one row per total",
        columns=(Column("id", "integer"),),
    )
    world.app("create materialized view totals as select 1 as id")
    with pytest.raises(SourceRefused) as caught:
        world.land(totals)
    said = str(caught.value)
    assert said.startswith('app.totals: "public"."totals" at ')
    assert 'create view … as select * from "public"."totals", and declare that' in said

    world.app('create view seen as select * from "public"."totals"')
    assert world.land_rows(replace(totals, read=Postgres("seen"))) == 1


def test_a_table_of_which_no_column_is_declared_says_how_they_are(world: World) -> None:
    world.app("create table bare (id integer primary key)")
    bare = SourceEntity(source="app", name="bare", read=Postgres("bare"), key=("id",), grain="one row")
    with pytest.raises(
        ContractError, match=r"bare: none of its columns is declared.*schema diff bare --write"
    ):
        world.land(bare)
    spans = replace(bare, columns=(Column("id", "interval"),))
    with pytest.raises(ContractError, match="bare: column id is declared as interval, in which nothing"):
        world.land(spans)

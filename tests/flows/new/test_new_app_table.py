"""A table of the application begins as the database has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from flows.errors import FlowsError
from tests.docs.markdown import ROOT
from tests.flows.new.begun import Begun
from tests.house import EACH_VERSION, House
from transforms.entities import Postgres
from transforms.lineage import lineage
from transforms.lineage_steps import Origin


@pytest.fixture(params=EACH_VERSION)
def source(
    house: House, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> str:
    """The application's database, and the setting that names it."""
    dsn = house.server(request.param).database()
    monkeypatch.setenv("ANALYTICS_APP_DSN", dsn)
    monkeypatch.chdir(tmp_path)
    return dsn


def _done(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_a_table_is_declared_and_staged_with_its_types_comments_and_key(begun: Begun, source: str) -> None:
    _done(
        source,
        "create domain cents as bigint check (value >= 0)",
        "create type state as enum ('open', 'paid')",
        'create table invoices (id bigint primary key, "createdAt" timestamptz not null, email text, '
        '"order" int, amount numeric(12, 2), rate double precision, due date, is_paid boolean, extra jsonb, '
        "tags text[], total cents, state state, doubled bigint generated always as (id * 2) stored, "
        "updated_at timestamptz)",
        "comment on column invoices.amount is E'What is owed\\n-- in euros'",
    )
    known = begun.new("app.invoices")
    entity = known.entities["raw_app__invoices"]
    assert isinstance(entity.read, Postgres)
    assert (entity.read.mode, entity.read.cursor, entity.key) == ("incremental", "updated_at", ("id",))
    assert {column.name: column.type for column in entity.columns} == {
        "id": "bigint", "createdAt": "timestamptz", "email": "varchar", "order": "integer",
        "amount": "decimal(12, 2)", "rate": "double", "due": "date", "is_paid": "boolean", "extra": "json",
        "tags": "varchar[]", "total": "bigint", "state": "varchar", "doubled": "bigint",
        "updated_at": "timestamptz",
    }  # fmt: skip
    table = known.table("stg_app__invoices")
    assert table.key == ("invoice_id",)
    assert [column.name for column in table.columns if column.pii] == ["email"]
    assert table.column("created_at").description == "When the row was made in the application (UTC)"
    assert table.column("amount").description == "What is owed -- in euros"
    assert table.path is not None
    assert " amount::decimal(12, 2) as amount," in table.path.read_text(encoding="utf-8")
    assert begun.differences(known) == []


def test_a_table_of_another_name_and_schema_with_a_key_of_two_is_read_whole(
    begun: Begun, source: str
) -> None:
    _done(
        source,
        'create schema "Billing"',
        'create table "Billing"."Lines" '
        '(invoice_id uuid, line int, "Text" text, primary key (line, invoice_id))',
    )
    known = begun.new("app.invoice_lines", "--read", "Billing.Lines")
    entity = known.entities["raw_app__invoice_lines"]
    assert isinstance(entity.read, Postgres)
    assert (entity.read.schema, entity.read.table, entity.read.mode) == ("Billing", "Lines", "snapshot")
    assert entity.key == ("line", "invoice_id")
    path = begun.project.declarations("app")
    ruff = [
        sys.executable,
        "-m",
        "ruff",
        "format",
        "--check",
        "--config",
        str(ROOT / "pyproject.toml"),
        str(path),
    ]
    assert subprocess.run(ruff, capture_output=True, check=False).returncode == 0
    assert begun.differences(known) == []


def test_whatever_its_columns_are_called_they_have_names_here(begun: Begun, source: str) -> None:
    _done(
        source,
        'create table odd (id int primary key, "createdAt" date, created_at date, "odd name" text, y int, '
        '"say ""it""s" text, "1st" int, "_seen" bool, "Ünïcode" text, "a: b" text, odd_id int, "order" int)',
    )
    known = begun.new("app.odd")
    assert [column.name for column in known.table("stg_app__odd").columns] == [
        "id", "created_at", "column_3", "odd_name", "y", "say__it_s", "column_7", "seen", "n_code", "a__b",
        "odd_id", "order",
    ]  # fmt: skip
    assert begun.differences(known) == []


def test_where_each_of_its_columns_comes_from_is_known_whatever_they_are_called(
    begun: Begun, source: str
) -> None:
    _done(source, 'create table tariffs ("ID" int primary key, "unitPrice" numeric(12, 2), "Größe" text)')
    known = begun.new("app.tariffs")
    assert {name: made.origins for name, made in lineage("stg_app__tariffs", known).items()} == {
        "id": (Origin("raw_app__tariffs", "ID"),),
        "unit_price": (Origin("raw_app__tariffs", "unitPrice"),),
        "gr__e": (Origin("raw_app__tariffs", "Größe"),),
    }


def test_a_word_that_the_applications_tables_use_each_in_its_way_is_not_explained_by_another_table(
    begun: Begun, source: str
) -> None:
    _done(source, "create table leads (id int primary key, status text, currency text)")
    table = begun.new("app.leads").table("stg_app__leads")
    assert table.column("status").description == "status, as the application has it"
    assert table.column("currency").description == "ISO 4217 code of the amounts"


def test_a_captured_table_is_declared_without_what_no_change_tells(begun: Begun, source: str) -> None:
    _done(
        source,
        "create table categories "
        "(id int primary key, name text, upper text generated always as (upper(name)) stored)",
    )
    known = begun.new("app.categories_again", "--read", "public.categories", "--mode", "cdc")
    entity = known.entities["raw_app__categories_again"]
    assert [column.name for column in entity.columns] == ["id", "name"]
    assert any("cdc register" in line for line in begun.draft.next)
    assert begun.differences(known) == []


def test_what_is_no_table_or_has_no_key_is_refused_with_what_to_say(begun: Begun, source: str) -> None:
    _done(source, "create table loose (a int, b text)")
    before = begun.files()
    for words, said in (
        (["app.nothing"], "no table public.nothing"),
        (["app.loose"], "--key a --key b"),
        (["app.loose", "--key", "c"], "no column c; it has a, b"),
        (["app.loose", "--key", "a", "--mode", "incremental"], "no column updated_at, .* --mode snapshot"),
    ):
        with pytest.raises(FlowsError, match=said):
            begun.new(*words)
    assert begun.files() == before
    known = begun.new("app.loose", "--key", "a")
    assert known.entities["raw_app__loose"].key == ("a",)
    assert begun.differences(known) == []

"""`python -m flows schema diff`: what the source has otherwise, and the declaration that says so."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from textwrap import indent

import psycopg
import pytest

from flows.__main__ import main
from flows.declaration import edited
from flows.errors import FlowsError
from flows.extract.postgres_session import catalog
from flows.extract.schema_differences import Remembered, differences
from flows.sandbox.world import app as world
from tests.docs.markdown import ROOT, blocks
from tests.flows.capture import Capture
from tests.house import House
from transforms import registry
from transforms.contract import Column
from transforms.entities import Postgres, SourceEntity
from transforms.sources import app

SCHEMA = (Path(world.__file__).parent / "app_schema.sql").read_text(encoding="utf-8")


@pytest.fixture
def source(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Capture:
    """The application's database, and the settings of a command line that names it."""
    capture = Capture.build(house, tmp_path, house.server(), warehouse_dsn=house.server().database())
    for name, value in capture.environment.items():
        monkeypatch.setenv(name, value)
    capture.app(SCHEMA)
    return capture


def test_a_source_as_declared_differs_in_nothing(source: Capture, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "diff"]) == 0
    assert capsys.readouterr().out == "15 tables are as they are declared.\n"


def test_names_of_types_that_somebody_has_quoted_are_no_others(
    source: Capture, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(source.environment["ANALYTICS_APP_DSN"], autocommit=True) as connection:
        statement = f"alter database {connection.info.dbname} set quote_all_identifiers = on"
        connection.execute(statement.encode())
    assert main(["schema", "diff"]) == 0
    assert capsys.readouterr().out == "15 tables are as they are declared.\n"


def test_what_is_written_is_the_source_and_lints(
    source: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source.app(
        "alter table users add column nickname text",
        "alter table users drop column locale",
        "alter table users rename column email to mail",
        "alter table categories add column position_of_it_in_the_menu integer",
        "alter table inventory alter column quantity type bigint",
        "alter table coupons alter column percent_off type numeric(7, 3)",
    )
    copy = tmp_path / "app.py"
    shutil.copy(str(app.__file__), copy)
    monkeypatch.setattr("flows.schema.app", types.SimpleNamespace(__file__=str(copy)))

    assert main(["schema", "diff", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    # Nothing was seen before: a rename is a column that is gone and one that nobody declared.
    assert {(one["table"], one["column"], one["change"]) for one in told} == {
        ("raw_app__users", "nickname", "added"),
        ("raw_app__users", "mail", "added"),
        ("raw_app__users", "email", "dropped"),
        ("raw_app__users", "locale", "dropped"),
        ("raw_app__categories", "position_of_it_in_the_menu", "added"),
        ("raw_app__inventory", "quantity", "widened"),
        ("raw_app__coupons", "percent_off", "retyped"),
    }
    assert main(["schema", "diff", "--write"]) == 0
    said = capsys.readouterr().err
    assert "app.users: declared in app.py as the source has it. If mail, nickname tells of a person" in said
    assert "stg_app__users" in said

    for one in entities(copy):
        assert isinstance(one.read, Postgres)
        there = catalog(source.settings.require("app_dsn"), "public", one.read.table)
        assert differences(one, Remembered(), there) == [], one.table
    for command in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, "--no-cache", str(copy)], check=True)


def test_what_is_declared_is_selected_where_it_was_passed_on(
    source: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source.app(
        'alter table users add column "nick name" text, add column height numeric(5, 2)',
        "alter table suppliers add column rating smallint",
    )
    shutil.copytree(Path(registry.__file__).parent, tmp_path / "transforms")
    copy = tmp_path / "transforms" / "sources" / "app.py"
    monkeypatch.setattr("flows.schema.app", types.SimpleNamespace(__file__=str(copy)))

    assert main(["schema", "diff", "--write", "users", "suppliers"]) == 0
    assert "stg_app__users.sql selects it" in capsys.readouterr().err
    others = [one for one in registry.entities() if one.source != "app"]
    written = registry.read(tmp_path / "transforms", [*entities(copy), *others])
    for name, new in (
        ("stg_app__users", {"nick_name": "VARCHAR", "height": "DECIMAL(5,2)"}),
        ("stg_app__suppliers", {"rating": "SMALLINT"}),
        ("stg_app__orders", {}),
    ):
        before, after = registry.table(name), written.table(name)
        assert after.columns[: len(before.columns)] == before.columns
        assert {column.name: column.type for column in after.columns[len(before.columns) :]} == new
    text = written.models["stg_app__users"].sql
    assert text is not None
    assert '\n    "nick name"::varchar as nick_name,\n' in text
    assert "as updated_at, -- When the row last changed" in text
    assert "\n    height::decimal(5, 2) as height\nfrom latest" in text


def test_a_rename_that_was_seen_keeps_the_former_name_and_what_it_tells_of_persons(tmp_path: Path) -> None:
    text = Path(str(app.__file__)).read_text(encoding="utf-8")
    columns = (Column("id", "bigint"), Column("mail", "varchar", formerly=("email",)))
    path = tmp_path / "app.py"
    users = registry.entity("raw_app__users")
    texts = {tmp_path / "another.py": "", path: text}
    assert edited(texts, users, columns) == path
    path.write_text(texts[path], encoding="utf-8")
    users = next(one for one in entities(path) if one.name == "users")
    assert [(c.name, c.formerly, c.pii) for c in users.columns] == [
        ("id", (), False),
        ("mail", ("email",), True),
    ]
    again = path.read_text(encoding="utf-8")
    columns = (Column("id", "bigint"), Column("post", "varchar", formerly=("mail", "email")))
    texts = {path: again}
    edited(texts, users, columns)
    path.write_text(texts[path], encoding="utf-8")
    users = next(one for one in entities(path) if one.name == "users")
    assert users.columns[1].formerly == ("mail", "email")
    subprocess.run([sys.executable, "-m", "ruff", "format", "--check", "--no-cache", str(path)], check=True)


@pytest.mark.parametrize("name", ['we"ird', 'in"\ntwo', "it's", "back\\slash", "größe", "行\u2028分"])
def test_whatever_a_column_is_or_was_called_its_declaration_can_be_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "app.py"
    texts = {path: Path(str(app.__file__)).read_text(encoding="utf-8")}
    columns = (Column("id", "bigint"), Column(name, "varchar", formerly=("it", f"{name} then")))
    edited(texts, registry.entity("raw_app__coupons"), columns)
    path.write_text(texts[path], encoding="utf-8")
    coupons = next(one for one in entities(path) if one.name == "coupons")
    assert [(c.name, c.formerly) for c in coupons.columns] == [("id", ()), (name, ("it", f"{name} then"))]


@pytest.mark.parametrize("mark", ["\x0c", "\x85", "\u2028"], ids=["form feed", "next line", "separator"])
def test_what_only_some_take_for_the_end_of_a_line_moves_no_declaration(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "app.py"
    text = Path(str(app.__file__)).read_text(encoding="utf-8").replace("\n\n", f"\n# a page{mark}more\n", 1)
    texts = {path: text}
    edited(texts, registry.entity("raw_app__coupons"), (Column("id", "bigint"),))
    path.write_text(texts[path], encoding="utf-8")
    declared = {one.name: one.columns for one in entities(path)}
    assert declared == {
        one.name: one.columns if one.name != "coupons" else (Column("id", "bigint"),) for one in app.ENTITIES
    }


def test_a_table_that_is_declared_otherwise_is_not_edited(tmp_path: Path) -> None:
    with pytest.raises(FlowsError, match="declare its columns by hand: id bigint"):
        edited(
            {tmp_path / "app.py": "ENTITIES = ()\n"},
            registry.entity("raw_app__users"),
            (Column("id", "bigint"),),
        )


DECLARED = blocks((ROOT / "docs/connect.md").read_text(encoding="utf-8"))[0].text
"""How docs/connect.md declares a table."""


@pytest.mark.parametrize("is_bare", [False, True], ids=["as the page says", "without columns"])
def test_a_declaration_as_the_documentation_shows_it_gets_the_columns_that_the_source_has(
    source: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_bare: bool
) -> None:
    source.app(
        "create table invoices (id bigint primary key, amount numeric(12, 2), created_at timestamptz, "
        'updated_at timestamptz, "Note ""1" text[])'
    )
    text = "ENTITIES = (\n" + indent(DECLARED[DECLARED.index("SourceEntity(") :].rstrip(), "    ") + ",\n)\n"
    assert 'name="invoices"' in text
    if is_bare:
        text = re.sub(r"        columns=\(.*?\n        \),\n", "", text, flags=re.DOTALL)
    path = tmp_path / "own.py"
    path.write_text(DECLARED.partition("SourceEntity(\n")[0] + text, encoding="utf-8")
    shutil.copy(str(app.__file__), tmp_path / "app.py")
    others = (tmp_path / "app.py").read_text(encoding="utf-8")
    monkeypatch.setattr("flows.schema.app", types.SimpleNamespace(__file__=str(tmp_path / "app.py")))
    (invoices,) = entities(path)
    monkeypatch.setattr("flows.schema.chosen", lambda _: [invoices])

    assert main(["schema", "diff", "--write", "invoices"]) == 0
    (invoices,) = entities(path)
    assert [(column.name, column.type, column.nullable) for column in invoices.columns] == [
        ("id", "bigint", is_bare),
        ("amount", "decimal(12, 2)" if is_bare else "decimal(12,2)", True),
        ("created_at", "timestamptz", True),
        ("updated_at", "timestamptz", True),
        ('Note "1', "varchar[]", True),
    ]
    assert (tmp_path / "app.py").read_text(encoding="utf-8") == others
    for command in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, "--no-cache", str(path)], check=True)
    assert main(["schema", "diff", "invoices"]) == 0


def test_a_column_that_could_not_be_declared_is_refused_before_anything_is_written(
    source: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source.app('alter table categories add column "ID" text')
    copy = tmp_path / "app.py"
    shutil.copy(str(app.__file__), copy)
    monkeypatch.setattr("flows.schema.app", types.SimpleNamespace(__file__=str(copy)))
    assert main(["schema", "diff", "--write", "categories"]) == 2
    assert "app.categories: both id and ID are among its columns" in capsys.readouterr().err
    assert copy.read_bytes() == Path(str(app.__file__)).read_bytes()


def entities(path: Path) -> tuple[SourceEntity, ...]:
    spec = importlib.util.spec_from_file_location(f"declared_{path.stat().st_mtime_ns}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: tuple[SourceEntity, ...] = module.ENTITIES
    return found

"""`python -m flows catalog` as people type it, the committed page, and examples that give nobody away."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psycopg
import pytest
from markdown_it import MarkdownIt

from flows import catalog
from flows.__main__ import main
from flows.catalog_page import markdown
from flows.examples import masked, sampled
from tests.house import Server
from transforms import registry
from transforms.charts import CHARTS
from warehouse_ddl.files import views
from warehouse_ddl.statements import ddl


def test_the_committed_page_is_what_the_models_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "--check"]) == 0, (
        "run `python -m flows catalog --write` and commit what it writes"
    )
    assert "up to date" in capsys.readouterr().out


def test_a_page_that_is_not_is_named_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "docs" / "dictionary.md"
    page.parent.mkdir()
    page.write_text("by hand", encoding="utf-8")
    monkeypatch.setattr(catalog, "PAGE", page)
    assert main(["catalog", "--check"]) == 1
    assert "run `python -m flows catalog --write`" in capsys.readouterr().out
    assert main(["catalog", "--write"]) == 0
    assert main(["catalog", "--check"]) == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a|b"),
        ("above\r\nbelow\rand\nlast", "above below and last"),
        ("`a|b`, `p < q * r`, `_op`", "<code>a|b</code>, <code>p &lt; q * r</code>, <code>_op</code>"),
        ("*x* **y** _z_ __op__ ~~s~~", "*x* **y** _z_ __op__ ~~s~~"),
        ("<b>bold</b> & 1 < 2 &lt;", "&lt;b&gt;bold&lt;/b&gt; &amp; 1 &lt; 2 &amp;lt;"),
        ("[1, 2] and [here](http://127.0.0.1)", "[1, 2] and [here](http://127.0.0.1)"),
        ("one ` alone, \\* and a \\", "one ` alone, \\* and a \\"),
    ],
)
def test_a_text_is_shown_on_the_page_as_it_was_written(text: str, shown: str) -> None:
    entry = next(entry for entry in catalog.entries() if entry["layer"] == "view")
    column = {**entry["columns"][0], "description": text, "pii": False}
    page = markdown([{**entry, "columns": [column], "rules": []}])
    cells = re.findall(
        "<td>(.*?)</td>", MarkdownIt().enable(["table", "strikethrough"]).render(page), re.DOTALL
    )
    assert (len(cells), cells[2]) == (4, shown)


def test_every_table_view_and_chart_has_an_entry_that_says_what_it_is() -> None:
    entries = {entry["table"]: entry for entry in catalog.entries()}
    shown = {*(view.name for view in views()), *(f"dashboard.{chart.name}" for chart in CHARTS)}
    assert set(entries) == {*registry.tables(), *shown}
    for name, entry in entries.items():
        assert entry["description"], name
        assert entry["owner"], name
        if entry["layer"] in {"staging", "dimensions", "facts", "marts", "view"}:
            assert all(column["description"] for column in entry["columns"]), name
            assert entry["rules"] or entry["layer"] == "view", name


def test_what_nobody_described_means_what_is_said_of_the_same_value_next_to_it() -> None:
    entries = {entry["table"]: entry for entry in catalog.entries()}
    raw = {column["name"]: column for column in entries["raw_app__orders"]["columns"]}
    assert raw["total_amount"]["inherited"] == "stg_app__orders.total_amount"
    assert raw["total_amount"]["description"]
    mail = {column["name"]: column for column in entries["fct_emails"]["columns"]}
    assert mail["status"]["inherited"] == "stg_sendgrid__messages.status"
    assert mail["status"]["sources"] == ["sendgrid.messages.object"]


def test_what_is_personal_is_personal_wherever_it_is_passed_on() -> None:
    """As it is, under whatever name; or as a text under the same one, trimmed and the like."""
    personal = {
        f"{entry['table']}.{column['name']}": column["pii"]
        for entry in catalog.entries()
        for column in entry["columns"]
    }
    for entry in catalog.entries():
        for column in entry["columns"]:
            same = f".{column['name']}" if column["type"] == "VARCHAR" else "."
            passed = [
                origin
                for origin, kind in column["made"].items()
                if kind in {"pass", "rename", "cast"} or origin.endswith(same)
            ]
            if any(personal.get(origin) for origin in passed):
                assert column["pii"], f"{entry['table']}.{column['name']} passes on {passed}"


def test_words_are_found_in_names_and_in_what_is_said_names_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "--search", "reconciliation", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert hits[0]["table"] == "mart_revenue_reconciliation"
    assert main(["catalog", "--search", "coupon", "took", "off"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert found[0].split(maxsplit=1) == [
        "fct_orders.discount_amount",
        "What the coupon took off the whole order, in major units",
    ]
    assert main(["catalog", "--search", "zebra"]) == 1
    assert capsys.readouterr().out == "Nothing says 'zebra'. Try fewer words.\n"


@pytest.mark.parametrize(
    "words", [["fct_orders", "--search", "revenue"], ["fct_orders", "--check"], ["--write", "--check"]]
)
def test_what_cannot_be_asked_together_is_refused_and_writes_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalog, "PAGE", tmp_path / "dictionary.md")
    with pytest.raises(SystemExit) as refused:
        main(["catalog", *words])
    assert refused.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_shown_with_all_that_is_known_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "stg_app__users"]) == 0
    said = capsys.readouterr().out
    for part in (
        "Owner:         data-team",
        "Fresh within:  1 hour",
        "Personal data: email, name, last_ip",
        "from raw_app__users.id (rename)",
        "user_id is never null  (completeness, critical)",
    ):
        assert part in said
    assert main(["catalog", "stg_app__user"]) == 2
    assert "Did you mean stg_app__users" in capsys.readouterr().err


def test_examples_are_values_as_they_are_and_personal_ones_masked(postgres18: Server) -> None:
    entry = next(entry for entry in catalog.entries() if entry["table"] == "dim_users")
    with psycopg.connect(postgres18.database(), autocommit=True) as connection:
        for statement in ddl(registry.table("dim_users")):
            connection.execute(statement.encode())
        connection.execute(
            "insert into personal.dim_users (user_id, email, name, plan, is_deleted, is_inferred) values "
            "(1, 'Ada.Lovelace7@example.com', 'ada lovelace', 'pro', false, false), "
            "(2, 'grace@example.org', 'grace hopper', 'pro', false, false), "
            "(3, null, null, null, true, false)"
        )
        shown = sampled(connection, entry)
    assert shown["plan"] == ["pro"]
    assert shown["user_id"] == ["1", "2", "3"]
    assert shown["email"] == ["x.x9@x.x", "x@x.x"]
    assert shown["name"] == ["x x"]
    assert shown["signup_date"] == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Ülkü Åström", "x x"),
        ("+49 170 1234", "+9 9 9"),
        ("Ж_1@пример.рф", "x_9@x.x"),
        ("١٢٣", "9"),
        ("শ্রী 🦄", "x x"),
    ],
)
def test_a_mask_leaves_no_letter_and_no_digit_of_any_script(value: str, expected: str) -> None:
    assert masked(value) == expected

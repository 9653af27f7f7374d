"""Order, selection and raw tables of the registry; and what it asks of every model there is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.transforms.conftest import ReadModels
from transforms import catalog, registry
from transforms.contract import ContractError, Layer, Table, Write
from transforms.entities import Postgres

MODELS = registry.build_order()


def model(upstream: str, extra: str = "") -> str:
    return (
        f"/* ---\ngrain: one row per user\nkey: [user_id]\n{extra}--- */\n"
        f"select user_id::bigint as user_id, -- User\nfrom {upstream}\n"
    )


CHAIN = {
    "staging/stg_app__users.sql": model("(select id as user_id from raw_app__users)"),
    "dimensions/dim_users.sql": model(
        "stg_app__users", "write: merge\nby_key: {stg_app__users: [user_id]}\nchanged: [stg_*]\n"
    ),
    "facts/fct_logins.sql": model("dim_users"),
    "marts/mart_logins.sql": model("fct_logins"),
    "marts/another.sql": model("dim_users"),
}


def test_build_order_puts_upstreams_first(read_models: ReadModels) -> None:
    order = [table.name for table in read_models(CHAIN).build_order]
    assert order == ["stg_app__users", "dim_users", "another", "fct_logins", "mart_logins"]


def test_what_a_table_references_is_built_before_it(read_models: ReadModels) -> None:
    early = model("raw_app__users", "expect:\n  - references: {column: user_id, table: dim_users}\n")
    order = [table.name for table in read_models({**CHAIN, "facts/a_fact.sql": early}).build_order]
    assert order.index("a_fact") > order.index("dim_users")


def test_downstream_is_everything_made_from_a_table(read_models: ReadModels) -> None:
    models = read_models(CHAIN)
    assert models.downstream("dim_users") == ("another", "fct_logins", "mart_logins")
    assert models.downstream("raw_app__users")[0] == "stg_app__users"
    assert models.upstream("fct_logins") == ("raw_app__users", "stg_app__users", "dim_users")


@pytest.mark.parametrize(
    ("words", "selected"),
    [
        ("dim_users", ("dim_users",)),
        ("fct_logins+", ("fct_logins", "mart_logins")),
        ("+fct_logins", ("stg_app__users", "dim_users", "fct_logins")),
        ("mart_logins, dim_users", ("dim_users", "mart_logins")),
        ("raw_app__users+", ("stg_app__users", "dim_users", "another", "fct_logins", "mart_logins")),
        ("*_logins", ("fct_logins", "mart_logins")),
    ],
)
def test_select(read_models: ReadModels, words: str, selected: tuple[str, ...]) -> None:
    assert read_models(CHAIN).select(words) == selected


def test_a_name_that_is_none_comes_with_what_is_close(read_models: ReadModels) -> None:
    with pytest.raises(ContractError, match=r"'fct_login' selects no table\. Did you mean fct_logins"):
        read_models(CHAIN).select("fct_login")


def test_a_circle_is_told_with_its_members(read_models: ReadModels) -> None:
    circle = {"facts/a.sql": model("b"), "facts/b.sql": model("a")}
    with pytest.raises(ContractError, match=r"in a circle: (a needs b needs a|b needs a needs b)"):
        _ = read_models(circle).build_order


def test_a_pattern_in_changed_becomes_the_upstreams_it_means(read_models: ReadModels) -> None:
    assert read_models(CHAIN).table("dim_users").changed == ("stg_app__users",)


def _looking_up(looks_up: str) -> dict[str, str]:
    mails = (
        "/* ---\ngrain: one row per mail\nkey: [mail_id]\n{0}--- */\n"
        "select id::bigint as mail_id, -- Mail\n    to_email::varchar as to_email, -- Address\n"
        "    1::bigint as user_id -- User\nfrom {1}\n"
    )
    users = model("(select id as user_id from raw_app__users)").replace(
        "-- User\n", "-- User\n    email::varchar as email -- Address\n"
    )
    follows = f"write: merge\nby_key: {{stg_mails: [mail_id]}}\nlooks_up: {looks_up}\n"
    two_keys = users.replace("key: [user_id]", "key: [user_id, email]")
    return {
        "staging/stg_app__users.sql": users,
        "staging/stg_two_keys.sql": two_keys,
        "staging/stg_mails.sql": mails.format("", "raw_events__clicks"),
        "facts/fct_mails.sql": mails.format(
            follows, "(select mail_id as id, to_email from stg_mails, stg_app__users, stg_two_keys)"
        ),
    }


def test_a_table_follows_also_what_it_looks_up(read_models: ReadModels) -> None:
    said = "{stg_app__users: {found: user_id, of: to_email, by: lower(email)}}"
    assert read_models(_looking_up(said)).table("fct_mails").followed == {"stg_mails", "stg_app__users"}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{stg_app__users: email}", "looks_up of stg_app__users names the column"),
        ("{stg_app__users: {found: nobody, of: to_email, by: email}}", "nobody"),
        (
            "{stg_app__users: {found: user_id, of: to_mail, by: email}}",
            r"stg_mails has no column to_mail\. Did you mean to_email",
        ),
        (
            "{stg_app__users: {found: user_id, of: to_email, by: lower(mail)}}",
            r"stg_app__users has no column mail\. Did you mean email",
        ),
        ("{stg_mails: {found: user_id, of: to_email, by: to_email}}", "looks_up names stg_mails"),
        ("{stg_two_keys: {found: user_id, of: to_email, by: email}}", "its key has 2 columns"),
    ],
)
def test_a_lookup_that_nothing_could_follow_is_refused(
    read_models: ReadModels, said: str, message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        _ = read_models(_looking_up(said)).build_order


def test_rows_can_be_looked_up_only_for_keys_that_are_followed_whole(read_models: ReadModels) -> None:
    files = _looking_up("{stg_app__users: {found: user_id, of: to_email, by: email}}")
    fact = files["facts/fct_mails.sql"].replace("key: [mail_id]", "key: [mail_id, user_id]")
    with pytest.raises(ContractError, match="by their whole key"):
        read_models({**files, "facts/fct_mails.sql": fact})


def test_raw_tables_end_with_what_every_landing_writes(read_models: ReadModels) -> None:
    models = read_models({})
    names = [column.name for column in models.table("raw_app__users").columns]
    landed = ["_batch_id", "_landed_at", "_seq"]
    of_row = ["_op", "_changed_at", "_registered_at", "_lsn"]
    assert names == ["id", "email", "created_at", "updated_at", *of_row, *landed]
    clicks = models.table("raw_events__clicks")
    assert [column.name for column in clicks.columns][:3] == ["topic", "kafka_partition", "kafka_offset"]
    assert clicks.column("headers").type == 'STRUCT("name" VARCHAR, "value" BLOB)[]'


@pytest.mark.parametrize("table", MODELS, ids=lambda table: table.name)
def test_every_model_says_what_it_is(table: Table) -> None:
    assert table.grain.startswith("one row per "), f"{table.name}: write `grain: one row per …`."
    assert table.key, f"{table.name} has no key."
    assert table.owner, f"{table.name} has no owner."
    undocumented = [column.name for column in catalog.columns(table) if not column.description]
    assert not undocumented, f"{table.name}: document {', '.join(undocumented)} behind their casts."


def test_staging_of_a_database_is_cut_by_a_column_that_no_landed_row_has_null() -> None:
    entities = {entity.table: entity for entity in registry.entities() if isinstance(entity.read, Postgres)}
    cut = {
        (entities[upstream].place, table.partition.by)
        for table in MODELS
        if table.layer is Layer.STAGING and table.partition
        for upstream in table.upstreams
        if upstream in entities
    }
    assert ("app.orders", "created_at") in cut
    required = {(entity.place, name) for entity in entities.values() for name in entity.required}
    assert cut <= required, "declare the column as the entity's window (month_of=…)"


WIDENED = [table for table in MODELS if table.lookback and table.name != "fct_events"]
"""Copies across the topics of fct_events are looked for by its build."""


@pytest.mark.parametrize("table", WIDENED, ids=lambda table: table.name)
def test_a_model_looks_no_further_than_its_lookback(table: Table) -> None:
    """Windows that are due together are read together: without an end a model would find more than in one."""
    days = table.lookback.days
    copies = f"range between {days} preceding and {days} following"
    said = copies if table.write is Write.APPEND else f"interval {days} days"
    assert said in (registry.default().model(table.name).sql or "")


@pytest.mark.parametrize("table", MODELS, ids=lambda table: table.name)
def test_every_name_carries_its_layer(table: Table) -> None:
    prefixes = {
        Layer.STAGING: ("stg_",),
        Layer.DIMENSIONS: ("dim_",),
        Layer.FACTS: ("fct_",),
        # user_event_counts is named in the stream's contract; fct_daily_active_users in the warehouse's.
        Layer.MARTS: ("mart_", "user_event_counts", "fct_daily_active_users"),
    }
    assert table.name.startswith(prefixes[table.layer]), (
        f"{table.name} begins with {prefixes[table.layer][0]}."
    )


def test_reading_every_model_loads_nothing_heavy() -> None:
    code = (
        "import sys; from transforms import registry; registry.tables(); "
        "print([name for name in ('sqlglot', 'polars', 'pyarrow', 'prefect') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Great Expectations on what stands in PostgreSQL."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

import quality
from flows.stores.warehouse_errors import WarehouseError, readable_errors
from flows.tries import may_pass
from quality import QualityError, arrivals, expectations
from transforms.contract import Rule

from .conftest import Content, Row, counts, make_rule, make_table

NOON = datetime(2025, 10, 7, 12, tzinfo=UTC)
TABLE = make_table(
    make_rule("between", column="amount", min=0, name="amount_not_negative"),
    make_rule("not_null", "completeness", column="kind", name="kind_given"),
)
IN_TIME = {"arrivals": arrivals([("fct_things", "2025-10-07", NOON, NOON)])}


def row(number: int, kind: str | None = "a", amount: str = "1.00", at: datetime = NOON) -> Row:
    return (number, kind, "A", Decimal(amount), 0.5, at)


def test_a_rule_becomes_the_expectation_of_that_meaning() -> None:
    rules = [
        *TABLE.expect,
        make_rule("accepted_values", column="kind", values=["a"], name="kind_known"),
        make_rule("matches", column="code", pattern="^A", name="code_form"),
        make_rule("unique", "uniqueness", columns=["id"], name="id_once"),
        make_rule("between", column="amount", max="0.10", name="exact_to_the_cent"),
    ]
    made = {}
    for item in expectations.suite(TABLE, rules).expectations:
        assert item.meta is not None
        made[item.meta["rule"]] = item.expectation_type
    assert made == {
        "amount_not_negative": "expect_column_values_to_be_between",
        "kind_given": "expect_column_values_to_not_be_null",
        "kind_known": "expect_column_values_to_be_in_set",
        "code_form": "expect_column_values_to_match_regex",
        "id_once": "expect_no_breaking_rows",
        "exact_to_the_cent": "expect_no_breaking_rows",
    }


def test_leaves_are_judged_together_in_one_batch(content: Content) -> None:
    content.fill([row(1), row(2, amount="-1")])
    content.postgres.execute("drop table if exists unpublished.other")
    content.postgres.execute("create table unpublished.other as select * from unpublished.things")
    rules = quality.rules(TABLE)
    results = expectations.validate(content.dsn, TABLE, rules, [content.leaf, "unpublished.other"], IN_TIME)
    found = counts(results)
    assert found["amount_not_negative"] == 2
    assert found["unique_id"] == 4
    assert found["kind_given"] == found["published_in_time"] == 0


def test_only_the_asked_windows_are_judged(content: Content) -> None:
    content.fill([row(1), row(2, amount="-1", at=NOON + timedelta(days=1))])
    rules = list(TABLE.expect)
    for window, failing in (("2025-10-07", 0), ("2025-10-08", 1)):
        results = expectations.validate(
            content.dsn, TABLE, rules, [content.leaf], partitions=[window], only_partitions=True
        )
        assert counts(results)["amount_not_negative"] == failing
        assert results[0].partition == window


def test_no_value_and_no_password_enters_a_result(content: Content) -> None:
    content.fill([row(1, kind="personal-canary", amount="-1")])
    rules = [
        *TABLE.expect,
        make_rule("accepted_values", column="kind", values=["a"], name="kind_known"),
        make_rule("sql", query="select * from fct_things where kind <> 'a'", name="sql_rule"),
    ]
    results = expectations.validate(content.dsn, TABLE, rules, [content.leaf])
    assert counts(results) == {"amount_not_negative": 1, "kind_given": 0, "kind_known": 1, "sql_rule": 1}
    assert "canary" not in repr(results)


def test_a_rule_that_cannot_run_is_named_without_the_password(content: Content) -> None:
    content.fill([row(1)])
    broken = make_rule("references", column="kind", table="dim_absent", to="kind", name="kind_exists")
    with pytest.raises(QualityError, match=r"kind_exists.*dim_absent") as caught:
        expectations.validate(content.dsn, TABLE, [broken, *TABLE.expect], [content.leaf])
    assert "canary" not in str(caught.value)
    assert expectations.validate(content.dsn, TABLE, TABLE.expect, [content.leaf])[0].passed


def test_a_rule_that_fails_over_a_value_is_named_and_the_value_is_not(content: Content) -> None:
    content.fill([row(1, kind="personal-canary")])
    rule = make_rule("sql", query="select * from fct_things where kind::integer > 0", name="odd")
    with pytest.raises(QualityError, match=r"odd.*invalid input syntax for type integer") as caught:
        expectations.validate(content.dsn, TABLE, [rule], [content.leaf])
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_the_connection_of_checks_cannot_write(content: Content) -> None:
    content.fill([row(1)])
    rule = make_rule("sql", name="writes", query="select nextval('unpublished.counter') from fct_things")
    content.postgres.execute("create sequence if not exists unpublished.counter")
    with pytest.raises(QualityError, match="read-only"):
        expectations.validate(content.dsn, TABLE, [rule], [content.leaf])


def test_nothing_stays_locked_after_a_validation(content: Content) -> None:
    content.fill([row(1)])
    expectations.validate(content.dsn, TABLE, TABLE.expect, [content.leaf])
    left = content.postgres.execute(
        "select state, (select count(*) from pg_locks where pg_locks.pid = activity.pid) "
        "from pg_stat_activity as activity "
        "where application_name = 'analytics checks' and datname = current_database()"
    ).fetchall()
    assert set(left) == {("idle", 0)}


def test_a_server_finds_within_a_minute_that_whoever_checks_is_gone_unless_somebody_has_set_otherwise(
    content: Content,
) -> None:
    """Else the session of a machine that vanished would stay for hours, and what it has read with it."""
    from sqlalchemy import text

    content.fill([row(1)])
    theirs = psycopg.conninfo.make_conninfo(content.dsn, options="-c tcp_keepalives_idle=77")
    for dsn, idle in ((content.dsn, "30"), (theirs, "77")):
        expectations.validate(dsn, TABLE, TABLE.expect, [content.leaf])
        with expectations._session(dsn) as session:  # the one that has served
            engine = session.source.get_execution_engine().engine
            with engine.connect() as connection:
                found = [
                    connection.execute(text(f"show tcp_{name}")).scalar()
                    for name in ("keepalives_idle", "keepalives_interval", "keepalives_count", "user_timeout")
                ]
                given = connection.connection.dbapi_connection.info.get_parameters()
        assert found == [idle, "10", "3", "60000"]
        assert (given["keepalives_idle"], given["tcp_user_timeout"]) == ("30", "60000"), "nor waits for it"


def test_how_long_a_query_of_the_login_may_take_is_no_limit_for_a_check(content: Content) -> None:
    content.fill([row(1)])
    limit = "select 1 from fct_things where current_setting('statement_timeout') <> '0'"
    rule, database = make_rule("sql", name="limited", query=limit), content.postgres.info.dbname
    own = psycopg.conninfo.make_conninfo(content.dsn, connect_timeout=11)  # no session that has served
    content.postgres.execute(f"alter database {database} set statement_timeout = '71s'".encode())
    try:
        results = expectations.validate(own, TABLE, [rule], [content.leaf])
    finally:
        content.postgres.execute(f"alter database {database} reset statement_timeout".encode())
    assert counts(results) == {"limited": 0}


def test_threads_can_validate_at_once(content: Content) -> None:
    content.fill([row(1), row(2, amount="-1")])
    found: list[int] = []

    def judge() -> None:
        results = expectations.validate(content.dsn, TABLE, TABLE.expect, [content.leaf])
        found.append(counts(results)["amount_not_negative"])

    threads = [threading.Thread(target=judge) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [1, 1, 1, 1]


def test_the_batch_is_described_without_reading_it(content: Content) -> None:
    content.fill([row(1)])
    read: list[str] = []
    from sqlalchemy import event

    with expectations._session(content.dsn) as session:
        engine = session.source.get_execution_engine().engine

    def note(*arguments: object) -> None:
        read.append(str(arguments[2]))

    event.listen(engine, "before_cursor_execute", note)
    try:
        expectations.validate(content.dsn, TABLE, TABLE.expect, [content.leaf])
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert not [
        statement for statement in read if statement.startswith('select "id"') and "limit 0" not in statement
    ]


@contextmanager
def _cut_at_work(dsn: str) -> Iterator[None]:
    """While the block lasts every session of checks that sleeps is ended, and each that follows it."""
    is_over = threading.Event()

    def cut() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not is_over.wait(0.05):
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep' "
                    "and application_name = 'analytics checks' and datname = current_database()"
                )

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        yield
    finally:
        is_over.set()
        cutting.join()


@pytest.mark.parametrize(
    "rule",
    [
        make_rule("sql", name="slow", query="select * from fct_things where kind is null"),
        make_rule("not_null", name="slow", column="kind"),
    ],
    ids=["a query of its own", "among others"],
)
def test_a_warehouse_that_stops_meanwhile_is_no_wrong_rule_and_may_pass(content: Content, rule: Rule) -> None:
    content.fill([row(1)])
    content.postgres.execute(
        "create view unpublished.slowly as select things.* from unpublished.things, pg_sleep(30)"
    )
    try:
        with _cut_at_work(content.dsn), pytest.raises(psycopg.OperationalError) as caught:
            expectations.validate(content.dsn, make_table(rule), [rule], ["unpublished.slowly"])
        assert isinstance(caught.value, psycopg.errors.AdminShutdown)
        assert may_pass(caught.value)
        assert str(caught.value) == (
            "fct_things: rule slow could not be checked in the warehouse: "
            "terminating connection due to administrator command"
        )
        with (
            pytest.raises(WarehouseError, match=r"was cut: fct_things: rule slow .*run again\."),
            readable_errors(),
        ):
            raise caught.value
    finally:
        content.postgres.execute("drop view unpublished.slowly")
    assert expectations.validate(content.dsn, make_table(rule), [rule], [content.leaf])[0].passed


def test_an_unreachable_warehouse_says_so() -> None:
    with pytest.raises(psycopg.OperationalError, match="refused"):
        expectations.validate("postgresql://postgres@127.0.0.1:1/postgres", TABLE, TABLE.expect, ["x"])


def test_importing_quality_does_not_import_great_expectations() -> None:
    import subprocess

    code = "import sys, quality, quality.expectations; print('great_expectations' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

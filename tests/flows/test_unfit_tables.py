"""A table that can't be made what its model says: it and what needs it stay as they are, all else goes on."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import psycopg
import pytest

from flows import batch
from flows.batch import RunFailed, runner
from flows.flow_names import BATCH
from flows.monitoring.runs import Run, recent
from flows.summary import Summary
from quality import QualityError, rulebook
from tests.flows.alerting.conftest import Watch
from tests.flows.warehouses import with_tables
from tests.house import Server
from transforms import registry
from warehouse_ddl.files import views

pytestmark = pytest.mark.usefixtures("prefect")

OTHERS_COLUMN = "alter table analytics.dim_currencies add column more integer"
OTHERS_VIEW = (
    "alter table analytics.dim_currencies drop column minor_digits; "
    "alter table analytics.dim_currencies add column minor_digits text; "
    "create view public.mine as select currency from analytics.dim_currencies"
)


@pytest.fixture
def watch(postgres18: Server, tmp_path: Path) -> Watch:
    """A warehouse of its own: its tables are changed."""
    return Watch(tmp_path, with_tables(postgres18))


def _run(watch: Watch, *select: str, yes: bool = False) -> Summary:
    """A run that lands nothing and builds what is due."""
    from prefect import flow

    @flow(name=BATCH, task_runner=runner)
    def run() -> Summary:
        return batch.run(BATCH, (), select, yes)

    with mock.patch.object(batch, "open_services", return_value=watch.services()):
        try:
            return run()
        except RunFailed as failed:
            return failed.summary


def _change(watch: Watch, statements: str) -> None:
    with psycopg.connect(watch.dsn) as connection:
        connection.execute(statements.encode())


def _rows(watch: Watch, table: str) -> int:
    ((count,),) = watch.rows(f"select count(*) from analytics.{table}")
    return int(count)


def _needing(name: str) -> set[str]:
    found = {name}
    for table in registry.build_order():
        if found.intersection(table.upstreams):
            found.add(table.name)
    return found - {name}


def _last(watch: Watch) -> Run:
    with psycopg.connect(watch.dsn) as connection:
        return recent(connection, watch.now)[0]


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (OTHERS_COLUMN, "dim_currencies: column more is gone (rebuild, destructive)"),
        pytest.param(
            OTHERS_VIEW,
            "dim_currencies: analytics.dim_currencies has to be replaced, and mine depends on it",
            marks=pytest.mark.full,
        ),
    ],
    ids=["consent", "somebody's view"],
)
def test_what_stays_as_it_was_fails_with_what_needs_it_and_nothing_else_does(
    watch: Watch, statements: str, said: str
) -> None:
    _change(watch, statements)
    is_consent = "destructive" in said
    summary = _run(watch, yes=not is_consent)
    (failure,) = summary.failures
    assert failure.startswith(said)
    assert "python -m flows run --yes" in failure or "drop it" in failure
    needing = _needing("dim_currencies")
    assert needing
    assert summary.skipped == [f"{', '.join(sorted(needing))}: they need dim_currencies, which failed"]
    assert (_rows(watch, "dim_currencies"), _rows(watch, "dim_date")) == (0, 7670)
    run = _last(watch)
    assert run.state == "Failed"
    assert run.undone == needing | {"dim_currencies"}
    assert {"dim_date", "fct_orders", *(view.name for view in views())} <= run.done

    if not is_consent:
        _change(watch, "drop view public.mine")
    watch.later(minutes=1)
    after = _run(watch, yes=True)
    assert (after.failures, after.skipped) == ([], [])
    assert _rows(watch, "dim_currencies") == 20
    assert _last(watch).undone == frozenset()


def test_a_run_that_is_narrowed_to_other_tables_does_what_it_was_asked_for(watch: Watch) -> None:
    _change(watch, OTHERS_COLUMN)
    summary = _run(watch, "dim_date")
    assert (summary.failures, summary.skipped) == ([], [])
    (warning,) = summary.warnings
    assert warning.startswith("dim_currencies: column more is gone")
    assert _rows(watch, "dim_date") == 7670
    assert _run(watch, "mart_revenue_reconciliation").failures == [warning]


@pytest.mark.full
def test_a_view_that_is_to_be_made_anew_waits_for_a_table_that_stays_as_it_was(watch: Watch) -> None:
    (view,) = [view for view in views() if view.name == "mv_daily_revenue"]
    (mart,) = view.upstreams
    _change(
        watch,
        f"alter table analytics.{mart} add column more integer; "
        "update ops.view_definition set fingerprint = 'older' where view_name = 'mv_daily_revenue'",
    )
    summary = _run(watch)
    (failure,) = summary.failures
    assert failure.startswith(f"{mart}: column more is gone")
    assert f"{view.name}: they need {mart}, which failed" in summary.skipped
    assert _last(watch).undone == {mart, view.name}
    older = "select fingerprint from ops.view_definition where view_name = 'mv_daily_revenue'"
    assert watch.rows(older) == [("older",)]

    watch.later(minutes=1)
    assert _run(watch, yes=True).failures == []
    assert watch.rows(older) == [(view.fingerprint,)]


@pytest.mark.full
def test_a_damaged_file_of_a_table_that_is_to_be_built_beside_is_its_own_failure_alone(watch: Watch) -> None:
    assert _run(watch, "dim_currencies").failures == []
    (file,) = (watch.folder / "lake" / "dimensions" / "dim_currencies").rglob("*.parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    _change(watch, OTHERS_VIEW.rpartition(";")[0])
    watch.later(minutes=1)

    summary = _run(watch, yes=True)

    (failure,) = summary.failures
    assert failure.startswith("dim_currencies: ")
    assert file.name in failure
    assert (_rows(watch, "dim_currencies"), _rows(watch, "dim_date")) == (20, 7670)
    assert _last(watch).undone == {"dim_currencies", *_needing("dim_currencies")}


def test_a_rule_that_no_run_would_ask_ends_the_run_before_it_begins(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "fct_oders__x.sql").write_text(
        "/* ---\nkind: accuracy\ndescription: x\n--- */\nselect 1 from fct_oders"
    )
    with (
        mock.patch.object(rulebook, "RULES", tmp_path),
        mock.patch.object(rulebook, "_files", rulebook._files.__wrapped__),
        pytest.raises(QualityError, match=r"^quality/rules/fct_oders__x\.sql: there is no model fct_oders"),
    ):
        _run(watch)
    assert _rows(watch, "dim_date") == 0
    assert _last(watch).state == "Failed"

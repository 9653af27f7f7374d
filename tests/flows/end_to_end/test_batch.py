"""One whole batch on the generated company: what it says, and that it is true to the row and the cent."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

import httpx
import polars as pl
import psycopg
import pytest

from flows.extract import debezium
from tests.flows.company import Company, Place, where
from tests.flows.sandbox import truth
from transforms import registry

KEYS = {table.name: ", ".join(table.key) for table in registry.build_order()}


def test_the_whole_batch_equals_the_truth_to_the_row_and_the_cent(built: Place) -> None:
    assert built.differences() == []


def test_the_rows_of_the_smaller_tables_are_the_very_rows_of_the_truth(built: Place) -> None:
    names = sorted(path.stem for path in (built.truth / "rows").glob("*.parquet") if path.stem in KEYS)
    assert {"fct_orders", "dim_users"} <= set(names)
    with psycopg.connect(built.warehouse_dsn, autocommit=True) as connection:
        for name in names:
            different = truth.row_differences(connection, built.truth, name, KEYS[name].split(", ")[0])
            assert different.is_empty(), f"{name}\n{different}"


@pytest.mark.parametrize("table", truth.MEASURES)
def test_one_wrong_cent_in_any_table_is_found(built: Place, table: str) -> None:
    with psycopg.connect(built.warehouse_dsn, autocommit=True) as connection:
        numbers: dict[str, str] = dict(
            connection.execute(
                "select column_name, case data_type when 'numeric' then '0.01' else '1' end "
                "from information_schema.columns where table_schema = 'analytics' and table_name = %s "
                "and data_type in ('numeric', 'bigint', 'integer', 'double precision')",
                (table,),
            ).fetchall()
        )
        summed = [name for name in truth.MEASURES[table].of if name in numbers]
        changes = [
            *(
                f"update {where(table)} set {name} = {name} + {numbers[name]} where ctid = "
                f"(select ctid from {where(table)} where {name} is not null limit 1)"
                for name in summed
            ),
            f"delete from {where(table)} where ctid = (select ctid from {where(table)} limit 1)",
        ]
        if table.endswith("_history"):
            changes.append(
                f"update {where(table)} set valid_from = valid_from + interval '1 microsecond' "
                f"where ctid = (select ctid from {where(table)} limit 1)"
            )
        for change in changes:
            with connection.transaction(force_rollback=True):
                # Facts refer to their dimensions; here a row goes all the same.
                connection.execute("set local session_replication_role = replica")
                assert connection.execute(change.encode()).rowcount >= 1
                assert truth.differences(connection, built.truth, tables=[table]), change
        assert truth.differences(connection, built.truth, tables=[table]) == []


def test_the_run_ends_with_what_was_done_and_commands_that_work(company: Company, built: Place) -> None:
    lines = company.first_run.out.splitlines()
    (done,) = [line for line in lines if " rows landed, " in line]
    summary = built.rows("select summary from ops.run where flow = 'analytics_pipeline' order by started_at")[
        0
    ][0]
    assert f"{sum(summary['landed'].values()):,} rows landed" in done
    assert f"{summary['checks_passed']:,} of {summary['checks']:,} checks passed" in done
    assert summary["checks"] - summary["checks_passed"] == len(summary["warnings"])
    orders = summary["tables"]["fct_orders"]["rows"]
    # Other tests may have let the world live on since.
    assert 0 < orders <= built.value("select count(*) from analytics.fct_orders")
    assert any(line.split()[:2] == ["fct_orders", f"{orders:,}"] for line in lines)
    (psql,) = [line.split(maxsplit=1)[1] for line in lines if line.startswith("  warehouse ")]
    (lake,) = [line.split(" or: ")[1] for line in lines if line.startswith("  lake ")]
    (page,) = [line.split()[1] for line in lines if line.startswith("  Prefect ")]
    shown = subprocess.run(
        shlex.split(psql), cwd=built.lake.parent, capture_output=True, text=True, check=True
    )
    assert "total_events" in shown.stdout
    assert shlex.split(lake)[1:] == ["-m", "flows", "lake"]
    assert httpx.get(page, trust_env=False).status_code == 200


def test_nothing_but_what_was_done_is_said(company: Company, built: Place) -> None:
    assert "leaked" not in company.first_run.said
    assert "Traceback" not in company.first_run.said
    assert "Warning" not in company.first_run.err


def test_a_second_run_lands_and_rebuilds_nothing(copy: Place) -> None:
    before, refreshed, files = copy.physical(), copy.refreshed(), copy.files("")
    done = copy.run()
    assert done.code == 0, done.said
    summary = copy.summary()
    assert (summary["state"], summary["landed"], copy.changed()) == ("Completed", {}, {})
    assert summary["checks"] == 0
    assert (copy.physical(), copy.refreshed()) == (before, refreshed)
    assert copy.files("") == files
    assert "0 rows landed, 0 partitions published" in done.out


def test_plan_says_that_nothing_is_new_where_that_can_be_asked(built: Place) -> None:
    done = built.run("plan")
    assert done.code == 0, done.said
    first, unknown = done.out.splitlines()
    assert first.startswith("Nothing is new at the sources that can say it beforehand: ")
    assert unknown.startswith("Only reading tells what is new in app (categories")
    assert "stripe (charges, refunds, " in unknown


def test_every_rule_was_checked_by_both_engines_and_its_result_kept(built: Place) -> None:
    kinds = built.rows("select distinct engine, kind from ops.check_result where passed")
    every = {"completeness", "accuracy", "consistency", "uniqueness"}
    assert {kind for engine, kind in kinds if engine == "duckdb"} >= every
    assert {kind for engine, kind in kinds if engine == "great_expectations"} >= every | {"timeliness"}
    assert built.rows("select * from ops.check_result where not passed and severity = 'critical'") == []


def test_what_the_sources_sent_unreadable_is_kept_with_its_place(built: Place) -> None:
    sent = pl.read_parquet(built.truth / "rows" / "dead_letters.parquet")
    expected = set(sent.select("topic", "kafka_partition", "kafka_offset").iter_rows())
    found = built.rows(
        "select topic, kafka_partition, kafka_offset from ops.dead_letter where topic is not null"
    )
    assert len(found) == len(expected) > 0
    assert set(found) == expected


class TestPrefect:
    """What the server shows of a run."""

    @pytest.fixture
    def ask(self, company: Company, built: Place) -> Any:
        url = company.state().prefect_url

        def ask(path: str, **filters: Any) -> Any:
            answer = httpx.post(f"{url}/{path}/filter", json=filters, trust_env=False)
            assert answer.status_code == 200, answer.text
            return answer.json()

        return ask

    def test_the_run_is_there_completed_under_a_name_that_says_what(self, ask: Any, built: Place) -> None:
        run_id = built.value(
            "select run_id from ops.run where flow = 'analytics_pipeline' order by started_at limit 1"
        )
        (run,) = ask("flow_runs", flow_runs={"id": {"any_": [run_id]}})
        assert run["state_type"] == "COMPLETED"
        assert run["name"].startswith("analytics_pipeline-20")

    def test_its_tasks_are_tables_and_window_batches_never_files_or_rows(
        self, ask: Any, built: Place
    ) -> None:
        run_id = built.value(
            "select run_id from ops.run where flow = 'analytics_pipeline' order by started_at limit 1"
        )
        names = [task["name"] for task in ask("task_runs", flow_runs={"id": {"any_": [run_id]}})]
        landed = {
            "land changes" if entity in debezium.entities() else f"land {entity.table}"
            for entity in registry.entities()
        }
        assert landed == {name for name in names if name.startswith("land ")}
        builds = [name.split()[1] for name in names if name.startswith("build ")]
        assert set(builds) == set(KEYS)
        assert len(builds) == len(set(builds)), "a small world needs one batch of windows for each table"

    def test_what_was_published_and_what_was_checked_are_artifacts(self, ask: Any) -> None:
        artifacts = {artifact["key"]: artifact for artifact in ask("artifacts/latest", sort="KEY_DESC")}
        assert "| fct_orders |" in artifacts["published"]["data"]
        assert "all rules, both engines" in artifacts["checks"]["data"]

    def test_results_are_json_or_nothing(self, company: Company, built: Place) -> None:
        from flows.backfill import backfill
        from flows.batch import analytics_pipeline, api_ingest

        assert {flow.result_serializer for flow in (analytics_pipeline, api_ingest, backfill)} == {"json"}
        stored = [path for path in (company.house.folder / "prefect").rglob("storage/*") if path.is_file()]
        assert all(path.read_bytes()[:1] == b"{" for path in stored)

"""What `new` begins goes all the way without a word more: checked, landed, modelled, streamed, published."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from confluent_kafka import Producer

from tests.broker import make_topics
from tests.docs.markdown import ROOT
from tests.flows.company import Company, Place

pytestmark = pytest.mark.full


def test_a_table_a_topic_and_a_mart_that_were_begun_are_read_and_published(
    copy: Place, company: Company, tmp_path: Path
) -> None:
    state = company.state()
    assert state.app_dsn is not None
    assert state.kafka_bootstrap is not None
    own = f"billing_{secrets.token_hex(4)}"
    topic = f"{own}.searches"
    make_topics(state.kafka_bootstrap, topic)
    began = copy.value("select max(event_time) from analytics.fct_events") - timedelta(hours=1)
    _search(state.kafka_bootstrap, topic, range(3), began.isoformat())
    with psycopg.connect(state.app_dsn, autocommit=True) as connection:
        connection.execute(f"create schema {own}".encode())
        connection.execute(
            f"create table {own}.invoices "
            "(id bigint primary key, amount numeric(12, 2) not null, paid_on date)".encode()
        )
        connection.execute(
            f"insert into {own}.invoices values (1, 10.5, '2025-10-07'), (2, 3, null)".encode()
        )
        connection.execute(f"comment on column {own}.invoices.amount is 'What is owed, in euros'".encode())
    project = tmp_path / "project"
    left_out = shutil.ignore_patterns(
        ".venv", ".cache", ".git", ".*_cache", ".sandbox", "__pycache__", "lake"
    )
    shutil.copytree(ROOT, project, ignore=left_out, symlinks=True)

    def python(*words: str) -> str:
        done = copy.python(project, *words)
        assert done.code == 0, done.said
        return done.out

    try:
        said = python("-m", "flows", "new", "app.invoices", "--read", f"{own}.invoices")
        assert "transforms/staging/stg_app__invoices.sql: new" in said
        python("-m", "flows", "new", "events.searches", "--read", topic)
        python("-m", "flows", "new", "mart_invoices", "--from", "stg_app__invoices")
        python("-m", "warehouse_ddl")
        python("-m", "flows", "catalog", "--write")
        python("-m", "ruff", "format", "--check", "transforms")
        python("-m", "ruff", "check", "transforms")
        python("-m", "sqlfluff", "lint", "--nocolor", "--disable-progress-bar", "transforms")
        python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/transforms")

        python("-m", "flows", "run", "--select", "+mart_invoices", "--select", "stg_events__searches")
        assert copy.rows(
            "select invoice_id, amount::text, paid_on::text from analytics.mart_invoices order by 1"
        ) == [
            (1, "10.50", "2025-10-07"),
            (2, "3.00", None),
        ]
        assert (
            copy.value("select col_description('analytics.mart_invoices'::regclass, 2)")
            == "What is owed, in euros"
        )
        assert _staged(python) == 3

        _search(state.kafka_bootstrap, topic, range(2, 5), began.isoformat())
        python("-m", "flows", "stream", "--until-idle")
        python("-m", "flows", "run", "--select", "stg_events__searches")
        assert _staged(python) == 5
    finally:
        with psycopg.connect(state.app_dsn, autocommit=True) as connection:
            connection.execute(f"drop schema {own} cascade".encode())


def _search(bootstrap: str, topic: str, numbers: range, at: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for number in numbers:
        sent = {
            "event_id": str(UUID(int=number)),
            "event_time": at,
            "query": f"shoes {number}",
            "hits": number,
        }
        producer.produce(topic, json.dumps(sent).encode())
    assert producer.flush(30) == 0


def _staged(python: Callable[..., str]) -> int:
    query = "select 'staged ' || count(*) || max(query) from stg_events__searches"
    found = re.search(r"staged (\d+)shoes", python("-m", "flows", "lake", query))
    assert found is not None
    return int(found[1])

"""Where a service is somebody's own, the sandbox's other parts are there and empty, and keep what comes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psycopg
import pytest
from confluent_kafka import Producer

from flows.__main__ import main
from flows.sandbox import ALL, Part
from flows.sandbox.commands import start_with_world
from flows.sandbox.state import State
from flows.sandbox.world import ensure_empty, topics
from flows.sandbox.world.clickstream import PARTITIONS, TOPICS
from tests.house import House, Server


@dataclass(frozen=True)
class Elsewhere(State):
    """A sandbox whose database and broker are others' than its own."""

    database: str = ""
    broker: str = ""

    @property
    def app_dsn(self) -> str:
        return self.database

    @property
    def kafka_bootstrap(self) -> str:
        return self.broker


def test_tables_and_topics_are_made_once_and_keep_what_comes(
    house: House, postgres18: Server, tmp_path: Path
) -> None:
    state = Elsewhere(tmp_path, "", database=postgres18.empty(), broker=house.kafka)
    parts = frozenset({Part.APP_POSTGRES, Part.KAFKA})
    names = tuple(f"{topic}-{secrets.token_hex(4)}" for topic in TOPICS)
    with mock.patch.object(topics, "TOPICS", names), psycopg.connect(state.app_dsn, autocommit=True) as app:
        ensure_empty(state, parts)
        query = "select count(*) from pg_tables where schemaname = 'public'"
        assert app.execute(query).fetchone() == (15,)
        assert topics.positions(house.kafka) == {name: [0] * PARTITIONS for name in names}

        app.execute("insert into users (id) values (1)")
        producer = Producer({"bootstrap.servers": house.kafka})
        producer.produce(names[0], b"{}", partition=0)
        assert producer.flush(20) == 0
        ensure_empty(state, parts)
        assert app.execute("select count(*) from users").fetchone() == (1,)
        assert topics.positions(house.kafka)[names[0]] == [1, 0, 0, 0]


def test_nothing_is_made_in_a_part_that_is_somebody_s_own(postgres18: Server, tmp_path: Path) -> None:
    state = Elsewhere(tmp_path, "", database=postgres18.empty(), broker="127.0.0.1:1")
    ensure_empty(state, frozenset({Part.APIS}))
    with psycopg.connect(state.app_dsn) as app:
        assert app.execute("select to_regclass('public.orders')").fetchone() == (None,)


OWN = [("APP_DSN", "postgresql://me@127.0.0.1:1/mine"), ("KAFKA_BOOTSTRAP", "127.0.0.1:1"),
       ("STRIPE_URL", "http://127.0.0.1:1"), ("SENDGRID_URL", "http://127.0.0.1:1")]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), OWN)
def test_no_company_is_generated_beside_a_service_of_one_s_own_though_the_sandbox_has_that_part_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("ANALYTICS_SANDBOX", str(tmp_path))
    state = SimpleNamespace(app_dsn="app", kafka_bootstrap="broker", stripe_url="api")

    def started(*_: Any, then: Any, **__: Any) -> Any:
        then(state, True)
        return state

    with (
        mock.patch("flows.sandbox.start", started),
        mock.patch("flows.sandbox.world.ensure") as company,
        mock.patch("flows.sandbox.world.ensure_empty") as empty,
    ):
        start_with_world(tmp_path, ALL)
        assert (company.call_count, empty.call_count) == (1, 0)
        monkeypatch.setenv(f"ANALYTICS_{name}", value)
        start_with_world(tmp_path, ALL)
        assert (company.call_count, empty.call_count) == (1, 1)


@pytest.mark.parametrize(("name", "value"), OWN)
def test_a_company_does_not_live_on_beside_a_service_of_one_s_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv("ANALYTICS_SANDBOX", str(tmp_path))
    monkeypatch.setenv(f"ANALYTICS_{name}", value)
    with mock.patch("flows.sandbox.status"), mock.patch("flows.sandbox.world.advance") as advance:
        assert main(["sandbox", "advance", "--days", "1"]) == 2
    assert not advance.called
    assert f"ANALYTICS_{name} names a service of your own" in capsys.readouterr().err

"""Where a service is somebody's own, the sandbox's other parts are there and empty, and keep what comes."""

from __future__ import annotations

import secrets
from types import SimpleNamespace
from unittest import mock

import psycopg
from confluent_kafka import Producer

from flows.sandbox import Part
from flows.sandbox.world import ensure_empty, topics
from tests.house import House, Server


def test_tables_and_topics_are_made_once_and_keep_what_comes(house: House, postgres18: Server) -> None:
    state = SimpleNamespace(app_dsn=postgres18.empty(), kafka_bootstrap=house.kafka)
    parts = frozenset({Part.APP_POSTGRES, Part.KAFKA})
    names = tuple(f"{topic}-{secrets.token_hex(4)}" for topic in topics.TOPICS)
    with mock.patch.object(topics, "TOPICS", names), psycopg.connect(state.app_dsn, autocommit=True) as app:
        ensure_empty(state, parts)
        query = "select count(*) from pg_tables where schemaname = 'public'"
        assert app.execute(query).fetchone() == (15,)
        assert topics.positions(house.kafka) == {name: [0] * topics.PARTITIONS for name in names}

        app.execute("insert into users (id) values (1)")
        producer = Producer({"bootstrap.servers": house.kafka})
        producer.produce(names[0], b"{}", partition=0)
        assert producer.flush(20) == 0
        ensure_empty(state, parts)
        assert app.execute("select count(*) from users").fetchone() == (1,)
        assert topics.positions(house.kafka)[names[0]] == [1, 0, 0, 0]


def test_nothing_is_made_in_a_part_that_is_somebody_s_own(postgres18: Server) -> None:
    state = SimpleNamespace(app_dsn=postgres18.empty(), kafka_bootstrap="127.0.0.1:1")
    ensure_empty(state, frozenset({Part.APIS}))
    with psycopg.connect(state.app_dsn) as app:
        assert app.execute("select to_regclass('public.orders')").fetchone() == (None,)

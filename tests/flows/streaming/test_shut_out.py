"""A stream whose login the warehouse does not let in any more."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from flows.stores.warehouse_errors import NotLetIn
from tests.flows.streaming.topics import Topics, until
from tests.house import House


@pytest.fixture
def login(house: House) -> Iterator[tuple[str, str]]:
    """A login of its own, which may do everything, and its password."""
    name, password = f"streaming_{secrets.token_hex(4)}", secrets.token_hex(8)
    with psycopg.connect(house.server().dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"create role {name} login superuser password '{password}'".encode())
        yield name, password
        connection.execute(f"alter role {name} nologin".encode())


def test_a_stream_whose_password_is_another_now_ends_and_says_what_to_do(
    house: House, tmp_path: Path, login: tuple[str, str]
) -> None:
    """It has the one that it began with: a supervisor starts another with that of now."""
    topics, (name, password) = Topics.build(house, tmp_path), login
    as_owner = topics.world.warehouse_dsn
    streaming = replace(topics, world=replace(topics.world))
    streaming.world.warehouse_dsn = make_conninfo(as_owner, user=name, password=password)
    told = rf"does not let this login in: .*{name}.* ANALYTICS_WAREHOUSE_DSN, .* start again\.$"
    with pytest.raises(NotLetIn, match=told):
        _take_in_until_shut_out(streaming, topics, name)

    topics.send([topics.event(2)])
    streaming.world.warehouse_dsn = make_conninfo(as_owner, user=name, password="of now")
    streaming.stream()
    assert [number for number, _, _ in topics.numbers()] == [1, 2]


def _take_in_until_shut_out(streaming: Topics, topics: Topics, name: str) -> None:
    with streaming.living() as living:
        topics.send([topics.event(1)])
        until(lambda: living.done() or topics.numbers() != [])
        with psycopg.connect(topics.world.warehouse_dsn, autocommit=True) as connection:
            connection.execute(f"alter role {name} password 'of now'".encode())
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", (name,)
            )
        until(living.done)

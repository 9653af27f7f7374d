"""A warehouse that comes back as it was before, or is made anew: what its stream told and landed is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from flows.recovery.agreement import TwoStories
from flows.recovery.from_lake import recover
from flows.stores.recovery import histories_of
from flows.streaming.keeper import keep_once
from tests import children
from tests.flows.streaming.changes import Company
from tests.flows.streaming.topics import Topics, until
from tests.flows.warehouses import with_tables
from tests.house import House
from transforms import registry


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


def _copied(house: House, topics: Topics) -> str:
    """The DSN of a copy of the warehouse as it is now; who is at work in it is sent away."""
    return house.server().empty(str(conninfo_to_dict(topics.world.warehouse_dsn)["dbname"]))


def _goes_back(house: House, topics: Topics, before: str, meanwhile: Callable[[], object]) -> None:
    """The server goes away, and is there again with the warehouse as `before`, a copy, has it."""
    name, older = (conninfo_to_dict(dsn)["dbname"] for dsn in (topics.world.warehouse_dsn, before))
    with psycopg.connect(house.server().dsn("postgres"), autocommit=True) as server:
        server.execute(f'alter database "{name}" allow_connections false'.encode())
        server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        meanwhile()
        until(
            lambda: not server.execute("select from pg_stat_activity where datname = %s", (name,)).fetchall()
        )
        server.execute(f'alter database "{name}" rename to "{name}_lost"'.encode())
        server.execute(f'alter database "{older}" rename to "{name}"'.encode())


def _manifests(topics: Topics) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in topics.world.lake.rglob("_manifest.jsonl")}


def _recover(topics: Topics) -> None:
    services = topics.world.services()
    with services.lake:
        recover(
            services.warehouse,
            services.lake,
            histories_of(services.lake),
            registry.default(),
            services.settings.now(),
            lambda *_: None,
        )


def _stream(topics: Topics) -> None:
    topics.stream()


def test_a_warehouse_that_was_made_anew_from_the_lake_lands_what_its_stream_takes_in(
    topics: Topics, house: House
) -> None:
    topics.send([topics.event(1, user_id=1)])
    topics.stream()
    topics.batch()
    topics.world.warehouse_dsn = with_tables(house.server())
    _recover(topics)

    topics.send([topics.event(2, user_id=1), topics.event(3, user_id=1)])
    anew = children.begun(_stream, topics)
    anew.join(90)
    has_ended = not anew.is_alive()
    anew.kill()

    assert has_ended, "the stream does not come to its end"
    assert len(topics.raw_places()) == len(set(topics.raw_places())) == 3
    services = topics.world.services()
    with services.lake, services.ledger() as ledger:
        (raw,) = {entity.table for entity in topics.entities if ledger.history(entity.table)}
        assert services.lake.manifest("raw", raw) == ledger.history(raw)


def test_a_stream_under_which_the_warehouse_goes_back_behind_the_lake_ends_and_says_so(
    topics: Topics, house: House
) -> None:
    manifests: dict[Path, bytes] = {}

    def live() -> None:
        with topics.living() as living:
            until(lambda: len(topics.numbers()) == 1)
            before = _copied(house, topics)
            topics.send([topics.event(2, user_id=1)])
            until(lambda: len(topics.numbers()) == 2)
            topics.batch()
            manifests.update(_manifests(topics))
            _goes_back(house, topics, before, lambda: topics.send([topics.event(3, user_id=1)]))
            until(living.done, seconds=60)

    topics.send([topics.event(1, user_id=1)])
    with pytest.raises(TwoStories, match=r"lake is ahead of the warehouse: .*rebuild --from-lake"):
        live()
    assert [number for number, _, _ in topics.numbers()] == [1]
    assert _manifests(topics) == manifests

    _recover(topics)
    topics.stream()
    assert [number for number, _, _ in topics.numbers()] == [1, 2, 3]


@pytest.mark.full
def test_what_is_counted_by_a_warehouse_that_went_back_is_told_behind_what_its_topic_holds(
    topics: Topics, house: House
) -> None:
    topics.send([topics.event(number, user_id=number) for number in range(1, 11)])
    with topics.living():
        until(lambda: len(topics.told()) == 10)
        before = _copied(house, topics)
        topics.send([topics.event(number, user_id=number) for number in range(100, 105)])
        until(lambda: len(topics.told()) == 15)
        more = [topics.event(number, user_id=number) for number in range(50, 70)]
        _goes_back(house, topics, before, lambda: topics.send(more))
        until(lambda: len(topics.numbers()) == 35)
        until(lambda: topics.rows("select count(*) from ops.outbox") == [(0,)] and len(topics.counts()) == 35)

    told = topics.told()
    assert {window: revisions[-1] for window, revisions in told.items()} == topics.counts()


@pytest.mark.full
def test_what_waited_in_a_warehouse_from_before_and_was_told_since_is_not_told_again(
    topics: Topics, house: House
) -> None:
    topics.send([topics.event(number, user_id=number) for number in (1, 2, 3)])
    assert topics.dies("stream", "outbox.produced")
    before = _copied(house, topics)
    assert keep_once(topics.world.services(), topics.way) == ""
    topics.send([topics.event(number, user_id=number) for number in range(100, 105)])
    assert topics.dies("stream", "outbox.sent")
    assert len(topics.told()) == 8

    topics.world.warehouse_dsn = before
    topics.send([topics.event(number, user_id=number) for number in range(50, 70)])
    topics.stream()

    told = topics.told()
    assert {user: len(revisions) for (user, _), revisions in told.items() if user in (1, 2, 3)} == {
        1: 1, 2: 1, 3: 1,
    }  # fmt: skip
    assert {window: revisions[-1] for window, revisions in told.items()} == topics.counts()
    assert len(told) == 28


@pytest.mark.full
def test_changes_are_not_followed_into_a_warehouse_that_is_behind_the_lake(
    company: Company, house: House
) -> None:
    settings = company.capture.settings
    before = house.server().empty(str(conninfo_to_dict(settings.require("warehouse_dsn"))["dbname"]))
    company.capture.app("update users set country = 'NO' where id = 2")
    company.wait_for_user("country", "NO")
    assert company.follow().messages == 1

    older = replace(company.capture, settings=settings.model_copy(update={"warehouse_dsn": before}))
    with pytest.raises(TwoStories, match="lake is ahead of the warehouse"):
        Company(older).follow()

"""Whatever writes raw asks who was erased: what still comes of them is landed without what names them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.erasure import listed
from flows.erasure.person import Person
from flows.landing import land
from tests.flows.extract.parts import World
from tests.flows.streaming.topics import Topics
from tests.house import House
from transforms import registry
from transforms.entities import Postgres

ADA = Person.new(1).with_emails(["ada@example.com"])
HERS = "/verify?mail=Ada@Example.com"
BOBS = "/verify?mail=bob@example.com"


def _erased(world: World) -> None:
    """Ada, whose address is known by its hash alone from here on."""
    services = world.services()
    with services.lake, services.ledger() as ledger:
        listed.begin(ledger.connection, services.lake, ADA, "asked", datetime.now(UTC))
        listed.finish(ledger.connection, services.lake, ADA.user_id, datetime.now(UTC), [])


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    """A warehouse that has forgotten Ada: her address is known by its hash alone."""
    topics = Topics.build(house, tmp_path)
    _erased(topics.world)
    return topics


def _values(topics: Topics) -> dict[tuple[int, int], bytes]:
    """(partition, offset) → the value that was landed last."""
    query = "select kafka_partition, kafka_offset, value from raw order by _landed_at"
    return {(part, offset): value for part, offset, value in topics.world.raw(topics.entity(), query)}


def _raw_files(topics: Topics) -> set[Path]:
    return set((topics.world.lake / "raw" / topics.entity().table).rglob("*.parquet"))


def _told(topics: Topics) -> list[bytes]:
    """An event of each of them, with spaces where nobody would write them."""
    both = (topics.event(1, user_id=1, page=HERS), topics.event(2, user_id=2, page=BOBS))
    return [json.dumps(event, separators=(" , ", " : ")).encode() for event in both]


def _forgotten(message: bytes) -> bytes:
    return message.replace(b"Ada@Example.com", ADA.alias.encode())


def test_no_way_into_raw_brings_an_erased_person_back(topics: Topics) -> None:
    hers, bobs = _told(topics)
    nobodys, broken_of_her = b'{"event_id": "no uuid"}', b'{"user_id": 1, "broken'

    topics.send([hers, bobs, nobodys, broken_of_her])
    tally = topics.stream()
    assert (tally.messages, tally.rows, tally.dead_letters) == (4, 2, 2)
    landed = {(0, 0): _forgotten(hers), (0, 1): bobs, (0, 2): nobodys, (0, 3): broken_of_her}
    assert _values(topics) == landed
    assert topics.rows("select user_id, page from analytics.fct_events order by 1") == [
        (1, HERS.replace("Ada@Example.com", ADA.alias)), (2, BOBS)
    ]  # fmt: skip
    assert [(user, count) for (user, _), (count, _, _) in sorted(topics.counts().items())] == [(1, 1), (2, 1)]
    letters = topics.rows("select letter_id, payload, status from ops.dead_letter order by kafka_offset")
    assert [row[1:] for row in letters] == [(nobodys, "waiting"), (None, "discarded")]

    streamed = _raw_files(topics)
    topics.send([hers, bobs], partition=1)
    services = topics.world.services()
    with services.lake:
        land(services, topics.entity(), "batch")
    landed |= {(1, 0): _forgotten(hers), (1, 1): bobs}
    assert _values(topics) == landed

    for path in _raw_files(topics) - streamed:
        path.unlink()
    assert topics.ask().recovered == 2
    assert _values(topics) == landed

    (outcome,) = topics.replay([letters[0][0]], given=hers)
    assert not outcome.reason
    assert _values(topics) == landed | {(0, 2): _forgotten(hers)}


def test_what_somebody_else_wrote_of_an_erased_person_lands_once_and_without_the_address(
    house: House, tmp_path: Path
) -> None:
    tickets = registry.entity("raw_app__support_tickets")
    columns = ", ".join(f"{column.name} {column.type}" for column in tickets.columns)
    world = World.build(house.server(), tmp_path)
    world.app(
        f"create table support_tickets ({columns}, primary key (id))",
        "insert into support_tickets select i, 8, null, 'ask ada@example.com', 'open', 'low', "
        """jsonb_build_array(jsonb_build_object('body', 'or Ada@Example.com')), now(), null, now() """
        "from generate_series(1, 2) as i",
        "update support_tickets set subject = 'hello', messages = '[]' where id = 2",
    )
    assert world.land_rows(tickets) == 2
    _erased(world)
    world.app("update support_tickets set priority = 'high', updated_at = now() where id = 1")

    assert world.land_rows(tickets) == 1

    newest = "select subject, messages::varchar from raw where priority = 'high'"
    ((subject, messages),) = world.raw(tickets, newest)
    assert subject == f"ask {ADA.alias}"
    assert json.loads(messages) == [{"body": f"or {ADA.alias}"}]
    assert world.land_rows(tickets) == 0, "it is known again though it stands otherwise at the source"


def test_an_erased_account_that_the_application_still_has_lands_as_gone_once(
    house: House, tmp_path: Path
) -> None:
    cdc = registry.entity("raw_app__users")
    users = replace(cdc, read=Postgres("users", mode="incremental", cursor="updated_at"))
    columns = ", ".join(f"{column.name} {column.type}" for column in users.columns)
    world = World.build(house.server(), tmp_path)
    world.app(
        f"create table users ({columns}, primary key (id))",
        "insert into users (id, email, created_at, updated_at) "
        "values (1, 'ada@example.com', now(), now()), (2, 'ada@example.com', now(), now())",
    )
    _erased(world)

    assert world.land_rows(users) == 2
    said = "select id, _op, email from raw order by 1"
    assert world.raw(users, said) == [(1, "d", None), (2, "r", "ada@example.com")], "2 has it by now"
    assert world.land_rows(users) == 0, "it is known again though it stands otherwise at the source"
    world.app("update users set updated_at = now() - interval '1 day' where id = 1")
    assert world.land_rows(users) == 0, "nobody takes it for a row that was never read"

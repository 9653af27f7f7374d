"""Whatever writes raw asks who was erased: what still comes of them is landed without what names them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.erasure import listed
from flows.erasure.person import Person
from flows.landing import land
from tests.flows.streaming.topics import Topics
from tests.house import House

ADA = Person.new(1).with_emails(["ada@example.com"])
HERS = "/verify?mail=Ada@Example.com"
BOBS = "/verify?mail=bob@example.com"


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    """A warehouse that has forgotten Ada: her address is known by its hash alone."""
    topics, now = Topics.build(house, tmp_path), datetime.now(UTC)
    services = topics.world.services()
    with services.lake, services.ledger() as ledger:
        listed.begin(ledger.connection, services.lake, ADA, "asked", now)
        listed.finish(ledger.connection, services.lake, ADA.user_id, now, [])
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

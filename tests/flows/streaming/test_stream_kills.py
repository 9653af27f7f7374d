"""A stream that is killed: what it had begun is there once, or the next one's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import failpoints
from flows.streaming import taking_in
from tests.flows.streaming.counting import assert_agreed, without_copies
from tests.flows.streaming.topics import Topics
from tests.house import House

STREAMING = Path(taking_in.__file__).parent
TURNING_POINTS = {"stream.before_commit", "stream.committed"}
EVERYWHERE = {
    *(name for name in failpoints.names(STREAMING) if name.startswith("stream.")),
    *("lake.temporary_written", "lake.renamed", "publish.created", "publish.copied"),
    *("ledger.entered", "ledger.before_commit", "ledger.committed", "lake.manifest_appended"),
}
"""What a micro-batch, the leaf it makes and the landing after it pass."""


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(TURNING_POINTS))
def test_a_kill_at_the_turning_points_loses_nothing_and_doubles_nothing(topics: Topics, name: str) -> None:
    _killed_once(topics, name)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(EVERYWHERE - TURNING_POINTS))
def test_a_kill_at_any_failpoint_loses_nothing_and_doubles_nothing(topics: Topics, name: str) -> None:
    _killed_once(topics, name)


def _killed_once(topics: Topics, name: str) -> None:
    def event(number: int, minutes: float = 0.0) -> dict[str, Any]:
        return topics.event(number, minutes=minutes + number % 20, user_id=1 + number % 7)

    topics.send((event(number) for number in range(200)), partition=1)
    topics.send((event(number, minutes=1500) for number in range(150, 300)), partition=0)
    topics.send([b"no event"], partition=2)

    assert topics.dies("stream", name)
    topics.stream()

    sent = [
        *((number, 1, number) for number in range(200)),
        *((number, 0, number - 150) for number in range(150, 300)),
    ]
    assert topics.numbers() == list(without_copies(sent))
    assert len(topics.raw_places()) == len(set(topics.raw_places())) == 351
    assert topics.rows("select count(*) from ops.dead_letter") == [(1,)]
    assert_agreed(topics, [event(n) for n in range(150)] + [event(n, 1500) for n in range(150, 300)])

"""A lake without space: what streams waits for it, moves no offset meanwhile, and goes on unaided."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

from flows.streaming.following import ChangesTally
from flows.streaming.tally import Tally
from tests.flows.small_disk import filled, resize, small_disk
from tests.flows.streaming.changes import Company
from tests.flows.streaming.topics import Topics, until
from tests.flows.streaming.workers import Sender, prove, taken_in
from tests.house import House

OFFSETS = "select sum(next_offset)::int from ops.stream_partition"


def test_a_stream_waits_for_space_in_the_lake_and_goes_on_unaided(house: House, tmp_path: Path) -> None:
    disk, tally = tmp_path / "disk", Tally()
    with small_disk(disk, 4_000):
        topics = Topics.build(house, disk)
        with topics.living(tally=tally) as living:
            topics.send(topics.event(number) for number in range(10))
            until(lambda: taken_in(topics) == 10)
            before = sorted(disk.rglob("*.parquet"))
            with filled(disk):
                topics.send(topics.event(number) for number in range(10, 20))
                _is_interrupted(tally, living)
                assert topics.rows(OFFSETS) == [(10,)]
                assert sorted(disk.rglob("*.parquet")) == before
            until(lambda: taken_in(topics) == 20)
        assert topics.numbers() == [(number, 0, number) for number in range(20)]
        assert [offset for _, _, offset in topics.raw_places()] == list(range(20))
        assert topics.left_over() == []


@pytest.mark.full
def test_space_that_is_short_again_and_again_loses_nothing_and_doubles_nothing(
    house: House, tmp_path: Path
) -> None:
    disk, tally = tmp_path / "disk", Tally()
    with small_disk(disk, 20_000):
        topics = Topics.build(house, disk)
        with topics.living(tally=tally) as living:
            with Sender(topics, rate=250) as sender:
                for _ in range(5):
                    _goes_on(topics)
                    with filled(disk):
                        _is_interrupted(tally, living)
            until(lambda: taken_in(topics) == sender.count, 60)
        resize(disk, 600_000)
        prove(topics, sender.count)


def _goes_on(topics: Topics) -> None:
    there = taken_in(topics)
    until(lambda: taken_in(topics) > there)


def _is_interrupted(tally: Tally, living: Future[Tally]) -> None:
    interrupted = tally.interruptions
    until(lambda: tally.interruptions > interrupted or living.done())


@pytest.mark.full
def test_changes_wait_for_space_in_the_lake_too(house: House, tmp_path: Path) -> None:
    disk, tally = tmp_path / "disk", ChangesTally()
    with small_disk(disk, 600_000):
        company = Company.build(house, disk)
        try:
            with company.followed(tally=tally) as living:
                with filled(disk):
                    company.capture.app("update users set plan = 'pro' where id = 4")
                    until(lambda: tally.interruptions > 0 or living.done(), 60)
                    assert company.differences() == ["users"]
                until(lambda: company.differences() == [], 60)
        finally:
            company.capture.end()

"""Copies of one record of which a stream takes in one and a batch reads the other: one of them is shown."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.streaming.counting import without_copies
from tests.flows.streaming.topics import MODELS, PARTITIONS, Topics
from tests.house import House

ROUNDS = 12
EVENTS = 60
MINUTES = (0, 60, 25 * 60, 3 * 24 * 60, 5 * 24 * 60)


def test_a_copy_that_the_stream_has_shown_goes_when_a_batch_publishes_the_one_that_counts(
    house: House, tmp_path: Path
) -> None:
    """The one that counts has the same time (1), is of a day that is hot (2), built (3) or has no leaf (4).
    One more is too far away to be a copy (5)."""
    topics, day = Topics.build(house, tmp_path), 24 * 60
    topics.send([topics.event(9, minutes=4 * day)], partition=1)
    topics.batch()
    topics.send([topics.event(number, user_id=7) for number in range(1, 7)], partition=2)
    topics.stream()
    apart = {1: 0, 2: 3, 3: 4 * day, 4: 3 * day, 5: 9 * day}
    topics.send((topics.event(number, minutes=minutes) for number, minutes in apart.items()), partition=0)

    topics.land()
    topics.build_due()

    kept = [(1, 0, 0), (2, 0, 1), (3, 0, 2), (4, 0, 3), (5, 0, 4), (5, 2, 4), (6, 2, 5), (9, 1, 0)]
    assert topics.numbers() == kept
    assert [one.message for one in topics.reconcile() if not one.passed] == []
    assert topics.numbers() == kept
    assert sum(count for count, _, _ in topics.counts().values()) == 2


def test_a_copy_of_the_same_moment_takes_the_place_of_a_published_one_in_a_day_that_a_stream_has_reached(
    house: House, tmp_path: Path
) -> None:
    """What the batch had published is changed where it stands, and never gone."""
    topics = Topics.build(house, tmp_path)
    topics.send([topics.event(1)], partition=2)
    topics.batch()
    topics.send([topics.event(2)], partition=1)
    topics.stream()
    topics.send([topics.event(1)], partition=0)

    topics.batch()

    assert topics.numbers() == [(1, 0, 0), (2, 1, 0)]
    assert [one.message for one in topics.reconcile() if not one.passed] == []


@pytest.mark.full
@pytest.mark.parametrize("seed", range(8))
def test_no_copy_stands_and_no_record_goes_however_streams_and_halves_of_batches_follow_one_another(
    house: House, tmp_path: Path, seed: int
) -> None:
    topics, chance = Topics.build(house, tmp_path), random.Random(seed)
    sent: list[tuple[int, int, int]] = []
    shown: list[int] = []
    done: list[str] = []
    doing: dict[str, Callable[[], object]] = {
        "stream": topics.stream,
        "land": topics.land,
        "batch": topics.batch,
        "reconcile": topics.reconcile,
        "stage": lambda: topics.build_due(MODELS[:3]),
        "build": topics.build_due,
    }
    for _ in range(ROUNDS):
        for partition in range(PARTITIONS):
            numbers = [chance.randrange(EVENTS) for _ in range(chance.randrange(6))]
            offset = sum(place == partition for _, place, _ in sent)
            sent += [(number, partition, offset + place) for place, number in enumerate(numbers)]
            events = (topics.event(number, minutes=chance.choice(MINUTES)) for number in numbers)
            topics.send(events, partition)
        done.append(chance.choice((*doing, "stream")))
        doing[done[-1]]()
        before, shown = set(shown), [number for number, _, _ in topics.numbers()]
        assert len(shown) == len(set(shown)), done
        assert before <= set(shown), done

    topics.batch()
    shown = [number for number, _, _ in topics.numbers()]
    assert len(shown) == len(set(shown)), done
    topics.reconcile()
    assert topics.numbers() == [*without_copies(sent)], done

"""Streams and brokers that come and go while messages are sent: each is taken in, once, in its order."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

from flows import stream
from flows.streaming import taking_in
from tests import children
from tests.flows.extract.parts import Broker
from tests.flows.streaming.topics import Topics, until
from tests.flows.streaming.workers import Sender, Worker, prove, taken_in
from tests.house import House


@pytest.mark.full
def test_a_stream_that_ends_leaves_what_it_did_not_take_in_to_the_next_one(
    house: House, tmp_path: Path
) -> None:
    topics = Topics.build(house, tmp_path)
    topics.send(topics.event(number) for number in range(100))
    services, stop = topics.world.services(), threading.Event()
    stop.set()
    with services.lake:
        taking_in.take_in(services, topics.way, stop=stop)
    assert topics.raw_places() == []

    assert topics.stream().rows == 100


@pytest.mark.full
@pytest.mark.parametrize("held", [("land", "raw_events__user_events"), ("publish", "fct_events")])
def test_a_stream_that_is_told_to_end_ends_though_somebody_holds_what_it_waits_for(
    house: House, tmp_path: Path, held: tuple[str, str]
) -> None:
    topics = Topics.build(house, tmp_path)
    told = "select count(*) from ops.stream_progress where ended_at is null"
    topics.send([topics.event(0)])
    process = children.begun(_as_commanded, topics)
    try:
        until(lambda: topics.rows("select messages from ops.stream_progress") == [(1,)])
        with topics.world.services().ledger() as ledger, ledger.locked(*held):
            topics.send([topics.event(1, minutes=3_000)])  # a day that has no leaf yet
            time.sleep(1)
            until(lambda: topics.rows("select count(*) from ops.stream_progress") == [(1,)])
            process.terminate()
            process.join(15)
            assert process.exitcode == 0
        assert topics.rows(told) == [(0,)]
    finally:
        process.kill()
        process.join()

    topics.stream()
    assert [number for number, _, _ in topics.numbers()] == [0, 1]
    assert [offset for _, _, offset in topics.raw_places()] == [0, 1]


def _as_commanded(topics: Topics) -> None:
    with (
        mock.patch("flows.commands.ensure_services"),
        mock.patch("flows.services.open_services", return_value=topics.world.services()),
        mock.patch("flows.prepare.warehouse"),
        mock.patch("flows.change_topics.of", return_value=[]),
        mock.patch.object(stream, "route", return_value=topics.way),
        mock.patch.object(stream, "END_SECONDS", 5.0),
    ):
        sys.exit(stream.command(argparse.Namespace(seconds=None, until_idle=False)))


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_hundred_thousand_messages_outlive_bounces_of_broker_and_stream(
    house: House, tmp_path: Path
) -> None:
    """Three hard and three clean ones of each."""
    broker = Broker()
    try:
        topics = Topics.build(house, tmp_path, bootstrap=broker.bootstrap)
        with Worker(topics) as worker:
            with Sender(topics, rate=1_500, at_least=100_000) as sender:
                for number in range(6):
                    is_hard = number % 2 == 0
                    _goes_on(topics)
                    broker.kill() if is_hard else broker.stop()
                    broker.start()
                    if is_hard:
                        _goes_on(topics)
                    worker.bounce(signal.SIGKILL if is_hard else signal.SIGTERM)
            until(lambda: taken_in(topics) == sender.count, 120)
            worker.end(signal.SIGTERM)
        prove(topics, sender.count)
    finally:
        broker.end()


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_stream_that_joins_and_leaves_under_load_loses_nothing_and_doubles_nothing(
    house: House, tmp_path: Path
) -> None:
    """It leaves by saying so, and by being killed."""
    topics = Topics.build(house, tmp_path)
    with Worker(topics) as first:
        with Sender(topics, rate=1_000) as sender:
            for number in (signal.SIGTERM, signal.SIGKILL):
                _goes_on(topics)
                with Worker(topics) as second:
                    until(lambda: len(_owners(topics)) == 2, 60)
                    _goes_on(topics)
                    second.end(number)
                until(lambda: len(_owners(topics)) == 1, 60)
        until(lambda: taken_in(topics) == sender.count, 60)
        first.end(signal.SIGTERM)
    prove(topics, sender.count)


def _goes_on(topics: Topics) -> None:
    """Wait until more is taken in than was."""
    before = taken_in(topics)
    until(lambda: taken_in(topics) > before, 90)


def _owners(topics: Topics) -> set[str]:
    return {owner for (owner,) in topics.rows("select distinct owner from ops.stream_partition")}

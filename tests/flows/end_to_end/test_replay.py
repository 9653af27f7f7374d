"""`replay`: what records of a topic touch is made equal to raw again, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.planner import REPLAYED
from flows.streaming.replays import BadReplay
from tests.flows.company import Place
from tests.flows.end_to_end.test_commands import _one_sentence, flows
from tests.flows.replaying import (
    DAY,
    FACT,
    STAGING,
    built_since,
    day,
    days,
    everything_once,
    forget_landing,
    landings,
    let_producers_say_the_time,
    sequence,
    state,
    tamper,
)
from tests.flows.streaming.topics import Topics, until
from tests.house import House


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


def test_only_the_days_of_the_records_are_rebuilt_and_nothing_is_written_where_all_is_right(
    topics: Topics,
) -> None:
    days(topics)
    topics.batch()
    before, place = state(topics), sequence(topics)

    replay = topics.ask("60", "70")
    topics.batch()

    assert replay.windows == {day(topics, 1): 10}
    assert built_since(topics, place) == {
        (name, day(topics, 1)) for name in (STAGING, FACT, "user_event_counts")
    }
    assert state(topics)["rows"] == before["rows"]
    everything_once(topics, 150)


@pytest.mark.parametrize("by", [pytest.param("batch", marks=pytest.mark.full), "stream"])
def test_rows_that_were_deleted_falsified_or_made_up_are_made_right_in_the_days_asked_for(
    topics: Topics, by: str
) -> None:
    days(topics)
    if by == "stream":
        topics.stream()
    topics.batch()
    right = topics.rows()
    tamper(topics, 0)
    tamper(topics, 50)

    topics.ask("50", "51")
    topics.batch()

    assert len([row for row in right if row not in topics.rows()]) == 2  # those of the other day
    assert len([row for row in topics.rows() if row not in right]) == 2
    topics.ask("0", "50")
    topics.batch()
    assert topics.rows() == right
    everything_once(topics, 150)


@pytest.mark.full
def test_files_of_the_models_that_were_damaged_are_written_anew(topics: Topics) -> None:
    days(topics)
    topics.batch()
    right = topics.rows()
    for name in (STAGING, FACT):
        (path,) = topics.rows(
            "select files -> 0 ->> 'path' from ops.partition_state "
            f"where (table_name, partition) = ('{name}', '{day(topics, 2)}')"
        )[0]
        Path(topics.world.lake, path).write_bytes(b"PAR1 no more")
    tamper(topics, 100)

    topics.ask("100")
    topics.batch()

    assert topics.rows() == right
    topics.send([topics.event(150, minutes=2 * DAY)])
    topics.batch()  # reads what stands of that day
    everything_once(topics, 151)


@pytest.mark.full
def test_a_landing_that_waits_for_the_same_day_is_built_beside_the_replay(topics: Topics) -> None:
    topics.send([topics.event(0), topics.event(1)], partition=1)
    topics.batch()
    topics.send([topics.event(0, minutes=DAY), topics.event(2)])  # a copy that counts, of another day
    with topics.world.services().lake:
        topics.world.land(topics.entity())
    topics.ask("0")

    topics.batch()

    assert topics.numbers() == [(0, 0, 0), (1, 1, 1), (2, 0, 1)]


@pytest.mark.full
def test_a_replay_while_a_stream_lives_loses_nothing_and_doubles_nothing(topics: Topics) -> None:
    topics.send(topics.event(number) for number in range(200))
    stop = threading.Event()
    sent = 200

    def send() -> None:
        nonlocal sent
        while not stop.is_set():
            topics.send(topics.event(number) for number in range(sent, sent + 20))
            sent += 20
            time.sleep(0.05)

    with topics.living():
        until(lambda: len(topics.numbers()) == 200)
        topics.batch()
        sender = threading.Thread(target=send)
        sender.start()
        try:
            for _ in range(3):
                tamper(topics, 7)
                topics.ask("0", "100")
                topics.batch()
                seen = topics.rows("select kafka_partition, kafka_offset, page from analytics.fct_events")
                assert {(0, offset, "/") for offset in range(200)} <= set(seen)
                assert len(seen) == len(set(seen)) == len({offset for _, offset, _ in seen})
                assert {partition for partition, _, _ in seen} == {0}
        finally:
            stop.set()
            sender.join()
        until(lambda: len(topics.numbers()) == sent)
    topics.batch()
    assert all(result.passed for result in topics.reconcile())
    everything_once(topics, sent)


# -------------------------------------------------------------------------------------------------- the range


@pytest.mark.full
def test_times_are_those_the_broker_got_the_records_at(topics: Topics) -> None:
    noon = datetime(2025, 10, 7, 12, tzinfo=UTC)
    let_producers_say_the_time(topics)
    for hour in range(3):
        at = noon + timedelta(hours=hour)
        topics.send((topics.event(hour * 10 + n, minutes=hour * DAY) for n in range(10)), at=at)
        topics.batch()

    assert topics.ask("2025-10-07T12:30", "2025-10-07T14:00").spans == {0: [(10, 20)]}
    assert topics.ask("2025-10-07T15:00+02:00").spans == {0: [(10, 30)]}
    assert topics.ask("5", "2025-10-07T13:00:00.001").spans == {0: [(5, 20)]}
    forget_landing(topics, 1)  # raw says 20 now, the broker knows better
    assert topics.ask("2025-10-07T12:30", "2025-10-07T14:00").recovered == 10
    topics.batch()
    everything_once(topics, 30)
    with pytest.raises(BadReplay, match="nothing to replay"):
        topics.ask("2025-10-08")


@pytest.mark.parametrize("start", ["0001-01-01", "1969-12-31T23:59:59"])
def test_from_a_time_before_there_was_any_record_all_is_replayed(topics: Topics, start: str) -> None:
    landings(topics)
    assert topics.ask(start, dry_run=True).spans == {0: [(0, 60)]}
    forget_landing(topics, 0)  # the broker is asked too where raw says less
    assert topics.ask(start, dry_run=True).spans == {0: [(0, 60)]}


def test_a_dry_run_says_what_would_be_done_and_does_nothing(topics: Topics) -> None:
    landings(topics)
    forget_landing(topics, 1)
    before = state(topics)

    replay = topics.ask("10", "30", dry_run=True)

    assert state(topics) == before
    assert f"topic {topics.topic()}, partition 0: offsets 10 to 29" in replay.found()
    assert "not in the lake: partition 0, offsets 20 to 29; the broker is asked" in replay.found()
    assert "3 partitions of 3 tables are to be made right" in replay.done()


def test_what_was_never_taken_in_can_not_be_replayed(topics: Topics) -> None:
    with pytest.raises(BadReplay, match="by partition: none"):
        topics.ask("0")
    landings(topics, 1)
    topics.send([topics.event(20)])
    assert topics.ask("10", "1000").spans == {0: [(10, 20)]}
    with pytest.raises(BadReplay, match="0: 20"):
        topics.ask("20")
    with pytest.raises(BadReplay, match="no partition 9"):
        topics.ask("0", None, 9)


@pytest.mark.full
def test_twice_is_once(topics: Topics) -> None:
    landings(topics)
    forget_landing(topics, 1)
    topics.ask("0")
    topics.ask("0")
    topics.batch()
    before = state(topics)["rows"]
    landed = topics.rows("select count(*) from ops.ledger where kind = 'land'")

    topics.ask("0")
    done = topics.batch()

    assert sum(built.rows_written for table in done.values() for built in table) == 0
    assert state(topics)["rows"] == before
    assert topics.rows("select count(*) from ops.ledger where kind = 'land'") == landed
    everything_once(topics, 60)


@pytest.mark.full
@pytest.mark.parametrize("name", ["replay.written", "replay.landed", "replay.marked"])
def test_a_kill_is_made_good_by_whoever_comes_next(topics: Topics, name: str) -> None:
    landings(topics)
    right = topics.rows()
    forget_landing(topics, 1)
    tamper(topics, 0)

    assert topics.dies("ask", name)
    if name == "replay.written":
        assert topics.rows(f"select 1 from ops.partition_state where fingerprint = '{REPLAYED}'") == []
        topics.ask("0")
    topics.batch()

    assert topics.rows() == right
    everything_once(topics, 60)


# ------------------------------------------------------------------------------------------------ the command


def _bad() -> Iterator[tuple[list[str], str]]:
    yield ["--topic", "nonsense", "--from", "0"], "clicks, page_views, user_events"
    yield ["--topic", "clicks", "--from", "yesterday"], "neither an offset nor a time"
    yield ["--topic", "clicks", "--from", "9", "--to", "9"], "--from 9 is not before --to 9"
    yield ["--topic", "clicks", "--from", "2025-10-08", "--to", "2025-10-07"], "is not before"


@pytest.mark.parametrize(("words", "part"), list(_bad()))
def test_bad_arguments_get_one_sentence_before_anything_is_started(
    tmp_path: Path, words: list[str], part: str
) -> None:
    _one_sentence(flows(tmp_path, "replay", *words), part)


def test_a_range_that_holds_nothing_is_told_before_a_run_begins(copy: Place) -> None:
    """Of a run that fails everybody is told who is told of incidents."""
    known = copy.rows("select run_id from ops.run"), copy.rows("select count(*) from ops.incident")
    done = copy.run("replay", "--topic", "clicks", "--from", "999999999")
    assert done.code == 2, done.said
    assert "by partition: 0: " in done.err.splitlines()[-1]
    assert (copy.rows("select run_id from ops.run"), copy.rows("select count(*) from ops.incident")) == known


@pytest.mark.full
def test_the_command_makes_a_day_right_with_all_that_depends_on_it(copy: Place) -> None:
    before, physical = copy.content(), copy.physical()
    last = copy.value("select max(event_time::date) - 1 from analytics.fct_events")
    dry = copy.run("replay", "--topic", "user_events", "--from", "0", "--dry-run")
    assert dry.code == 0, dry.said
    assert "Nothing was changed." in dry.out
    assert copy.physical() == physical
    for statement in (
        f"delete from analytics.fct_events where event_time::date = '{last}' and event_type = 'login'",
        f"update analytics.mart_daily_metrics set total_events = 1 where date = '{last}'",
        f"delete from analytics.fct_daily_active_users where date = '{last}'",
    ):
        copy.rows(statement)
    assert copy.content() != before

    done = copy.run("replay", "--topic", "user_events", "--from", "0")

    assert done.code == 0, done.said
    assert copy.content() == before
    assert copy.differences() == []
    assert set(copy.changed()) == {"fct_events", "mart_daily_metrics", "fct_daily_active_users"}
    assert copy.run("plan").out.startswith("Nothing is new at the sources")
    physical = copy.physical()
    assert copy.run("replay", "--topic", "user_events", "--from", "0").code == 0
    assert copy.physical() == physical

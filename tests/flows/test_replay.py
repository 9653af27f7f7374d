"""`replay`: what records of a topic touch is made equal to raw again, and what raw lost comes back, once."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from flows.extract import SourceError
from flows.planner import REPLAYED
from flows.streaming.replays import BadReplay, Missing
from tests.flows.company import Place
from tests.flows.streaming.topics import Topics
from tests.flows.test_commands import _one_sentence, flows
from tests.house import House

STAGING, FACT = "stg_events__user_events", "fct_events"
DAY = 1440
_SET = AlterConfigOpType.SET


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


def _days(topics: Topics, days: int = 3, each: int = 50) -> None:
    """Offsets 0 to 49 of partition 0 are of the latest day, the next 50 of the day before, and so on."""
    for day in range(days):
        topics.send(topics.event(day * each + number, minutes=day * DAY) for number in range(each))


def _landings(topics: Topics, number: int = 3, each: int = 20) -> None:
    """So many landings of the batch, all of one day."""
    for first in range(0, number * each, each):
        topics.send(topics.event(first + n) for n in range(each))
        topics.batch()


def _day(topics: Topics, ago: int) -> str:
    return f"{topics.began - timedelta(days=ago):%Y-%m-%d}"


def _execute(topics: Topics, *statements: str) -> None:
    with psycopg.connect(topics.world.warehouse_dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _tamper(topics: Topics, first: int) -> None:
    """Take a row away, falsify one, and put one in that nobody sent."""
    _execute(
        topics,
        f"delete from analytics.fct_events where kafka_offset = {first}",
        f"update analytics.fct_events set page = '/forged' where kafka_offset = {first + 1}",
        "insert into analytics.fct_events (event_id, event_type, event_time, kafka_partition, kafka_offset) "
        "select gen_random_uuid(), 'login', event_time, 2, 99 from analytics.fct_events "
        f"where kafka_offset = {first + 2}",
    )


def _state(topics: Topics) -> dict[str, Any]:
    """Everything a replay could have changed."""
    names = ("ledger", "position", "partition_state", "landed_window", "stream_batch", "hot_partition")
    found: dict[str, Any] = {name: topics.rows(f"select * from ops.{name} order by 1, 2") for name in names}
    found["rows"] = topics.rows("select *, ctid from analytics.fct_events order by event_id")
    found["files"] = sorted(str(path) for path in topics.world.lake.rglob("*.parquet"))
    return found


def _built_since(topics: Topics, sequence: int) -> set[tuple[str, str]]:
    query = f"select table_name, partition from ops.ledger where kind <> 'land' and sequence > {sequence}"
    return {(row[0], row[1]) for row in topics.rows(query)}


def _sequence(topics: Topics) -> int:
    return int(topics.rows("select max(sequence) from ops.ledger")[0][0])


def _forget_landing(topics: Topics, number: int) -> None:
    """Remove one landing of the user events from the ledger, and its file."""
    table = topics.entity().table
    token, path = topics.rows(
        "select token, files -> 0 ->> 'path' from ops.ledger where kind = 'land' "
        f"and table_name = '{table}' order by sequence offset {number} limit 1"
    )[0]
    _execute(topics, f"delete from ops.ledger where token = '{token}'")
    Path(topics.world.lake, path).unlink()


def _file_of_landing(topics: Topics, number: int) -> Path:
    rows = topics.rows(
        "select files -> 0 ->> 'path' from ops.ledger where kind = 'land' "
        f"and table_name = '{topics.entity().table}' order by sequence offset {number} limit 1"
    )
    return Path(topics.world.lake, rows[0][0])


def _delete_at_broker(topics: Topics, before: int) -> None:
    admin = AdminClient({"bootstrap.servers": topics.world.kafka_bootstrap})
    gone = TopicPartition(topics.topic(), 0, before)
    admin.delete_records([gone])[gone].result(20)


def _let_producers_say_the_time(topics: Topics) -> None:
    admin = AdminClient({"bootstrap.servers": topics.world.kafka_bootstrap})
    settings = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}
    entries = [ConfigEntry(name, value, incremental_operation=_SET) for name, value in settings.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topics.topic(), incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(20)


def _everything_once(topics: Topics, count: int) -> None:
    assert topics.raw_places() == [(topics.topic(), 0, offset) for offset in range(count)]
    assert topics.numbers() == [(number, 0, number) for number in range(count)]
    assert topics.rows("select count(*) from ops.partition_state where fingerprint = 'replay'") == [(0,)]
    assert topics.left_over() == []


# -------------------------------------------------------------------------------------------- what is touched


def test_only_the_days_of_the_records_are_rebuilt_and_nothing_is_written_where_all_is_right(
    topics: Topics,
) -> None:
    _days(topics)
    topics.batch()
    before, sequence = _state(topics), _sequence(topics)

    replay = topics.ask("60", "70")
    topics.batch()

    assert replay.windows == {_day(topics, 1): 10}
    assert _built_since(topics, sequence) == {(STAGING, _day(topics, 1)), (FACT, _day(topics, 1))}
    assert _state(topics)["rows"] == before["rows"]
    _everything_once(topics, 150)


@pytest.mark.parametrize("by", ["batch", "stream"])
def test_rows_that_were_deleted_falsified_or_made_up_are_made_right_in_the_days_asked_for(
    topics: Topics, by: str
) -> None:
    _days(topics)
    if by == "stream":
        topics.stream()
    topics.batch()
    right = topics.rows()
    _tamper(topics, 0)
    _tamper(topics, 50)

    topics.ask("50", "51")
    topics.batch()

    assert len([row for row in right if row not in topics.rows()]) == 2  # those of the other day
    assert len([row for row in topics.rows() if row not in right]) == 2
    topics.ask("0", "50")
    topics.batch()
    assert topics.rows() == right
    _everything_once(topics, 150)


def test_files_of_the_models_that_were_damaged_are_written_anew(topics: Topics) -> None:
    _days(topics)
    topics.batch()
    right = topics.rows()
    for name in (STAGING, FACT):
        (path,) = topics.rows(
            "select files -> 0 ->> 'path' from ops.partition_state "
            f"where (table_name, partition) = ('{name}', '{_day(topics, 2)}')"
        )[0]
        Path(topics.world.lake, path).write_bytes(b"PAR1 no more")
    _tamper(topics, 100)

    topics.ask("100")
    topics.batch()

    assert topics.rows() == right
    topics.send([topics.event(150, minutes=2 * DAY)])
    topics.batch()  # reads what stands of that day
    _everything_once(topics, 151)


def test_a_landing_that_waits_for_the_same_day_is_built_beside_the_replay(topics: Topics) -> None:
    topics.send([topics.event(0), topics.event(1)], partition=1)
    topics.batch()
    topics.send([topics.event(0, minutes=DAY), topics.event(2)])  # a copy that counts, of another day
    with topics.world.services().lake:
        topics.world.land(topics.entity())
    topics.ask("0")

    topics.batch()

    assert topics.numbers() == [(0, 0, 0), (1, 1, 1), (2, 0, 1)]


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
        _until(lambda: len(topics.numbers()) == 200)
        topics.batch()
        sender = threading.Thread(target=send)
        sender.start()
        try:
            for _ in range(3):
                _tamper(topics, 7)
                topics.ask("0", "100")
                topics.batch()
                seen = topics.rows("select kafka_partition, kafka_offset, page from analytics.fct_events")
                assert {(0, offset, "/") for offset in range(200)} <= set(seen)
                assert len(seen) == len(set(seen)) == len({offset for _, offset, _ in seen})
                assert {partition for partition, _, _ in seen} == {0}
        finally:
            stop.set()
            sender.join()
        _until(lambda: len(topics.numbers()) == sent)
    topics.batch()
    assert all(result.passed for result in topics.reconcile())
    _everything_once(topics, sent)


# ------------------------------------------------------------------------------------------ what raw has lost


def _remove_the_file(topics: Topics) -> None:
    _file_of_landing(topics, 1).unlink()


def _damage_the_file(topics: Topics) -> None:
    path = _file_of_landing(topics, 1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _remove_the_landing(topics: Topics) -> None:
    _forget_landing(topics, 1)


def _remove_the_first_landing(topics: Topics) -> None:
    _forget_landing(topics, 0)


@pytest.mark.parametrize(
    "lose", [_remove_the_file, _damage_the_file, _remove_the_landing, _remove_the_first_landing]
)
def test_what_raw_lost_comes_back_from_the_broker_once(
    topics: Topics, lose: Callable[[Topics], None]
) -> None:
    _landings(topics)
    before = topics.rows()
    positions = topics.rows("select positions - 'landed_at' from ops.position")
    lose(topics)

    replay = topics.ask("0")
    topics.batch()

    assert replay.recovered == 20
    _everything_once(topics, 60)
    assert topics.rows() == before
    assert topics.rows("select positions - 'landed_at' from ops.position") == positions
    assert topics.ask("0").recovered == 0
    topics.batch()
    _everything_once(topics, 60)


def test_a_range_that_was_skipped_is_landed_when_it_is_replayed(topics: Topics) -> None:
    _landings(topics, 1)
    topics.send(topics.event(number, minutes=DAY) for number in range(20, 40))
    _execute(topics, "update ops.position set positions = jsonb_set(positions, '{offsets,0}', '30')")
    topics.batch()
    assert len(topics.numbers()) == 30

    replay = topics.ask("25", "35")
    topics.batch()

    assert replay.recovered == 5
    assert {offset for _, _, offset in topics.numbers()} == {*range(20), *range(25, 40)}
    topics.ask("0")
    topics.batch()
    _everything_once(topics, 40)


def test_a_lost_copy_that_counts_takes_the_place_of_the_one_that_stood_in_for_it(topics: Topics) -> None:
    topics.send([topics.event(1), topics.event(2)])
    topics.batch()
    topics.send([topics.event(1, minutes=DAY)], partition=1)
    topics.batch()
    _forget_landing(topics, 0)
    names = ("partition_state", "landed_window")
    _execute(topics, *(f"delete from ops.{name}" for name in names), "delete from analytics.fct_events")
    _execute(topics, "delete from ops.ledger where kind <> 'land'")
    topics.batch()
    topics.ask("0", None, 0)
    topics.batch()

    assert topics.numbers() == [(1, 0, 0), (2, 0, 1)]


def test_what_neither_the_lake_nor_the_broker_has_stops_it_before_anything_is_changed(topics: Topics) -> None:
    _landings(topics)
    _forget_landing(topics, 0)
    _delete_at_broker(topics, 15)
    before = _state(topics)

    with pytest.raises(Missing) as stopped:
        topics.ask("5", "30")

    assert "offsets 5 to 14 of partition 0" in str(stopped.value)
    assert "the lake has 20 to 59 of it; the broker begins at 15" in str(stopped.value)
    assert str(topics.world.lake) in str(stopped.value)
    assert "partition 0 from 15 on" in str(stopped.value)
    assert _state(topics) == before
    assert topics.ask("15").recovered == 5


def test_a_damaged_file_whose_records_the_broker_deleted_stops_it_too(topics: Topics) -> None:
    _landings(topics)
    _damage_the_file(topics)
    _delete_at_broker(topics, 25)
    before = _state(topics)

    with pytest.raises(Missing, match=r"of the 20 records .* has 15 left. Nothing was changed. Restore"):
        topics.ask("30", "35")

    assert _state(topics) == before
    topics.ask("0", "20")  # the file has nothing to do with these
    topics.ask("40")


def test_gaps_between_offsets_are_no_loss_even_when_the_broker_has_deleted_them(topics: Topics) -> None:
    producer = Producer(
        {"bootstrap.servers": topics.world.kafka_bootstrap, "transactional.id": topics.topic()}
    )
    producer.init_transactions(30)
    for number in range(6):
        producer.begin_transaction()
        producer.produce(topics.topic(), json.dumps(topics.event(number)).encode(), partition=0)
        producer.flush(30)
        if number % 2:
            producer.abort_transaction(30)  # nothing comes of it: no landing tells of its offsets
        else:
            producer.commit_transaction(30)
        topics.batch()
    topics.send([topics.event(6)])
    topics.batch()
    _delete_at_broker(topics, 12)

    replay = topics.ask("0")

    assert (replay.lost.spans, replay.lost.gone, replay.recovered) == ({}, {}, 0)
    topics.batch()
    assert [number for number, _, _ in topics.numbers()] == [0, 2, 4, 6]


def test_landings_that_do_not_say_what_they_read_are_believed_as_far_as_their_files_go(
    topics: Topics,
) -> None:
    _landings(topics)
    _execute(topics, "update ops.ledger set control = '{}' where kind = 'land'")
    _forget_landing(topics, 1)

    assert topics.ask("0").recovered == 20
    topics.batch()
    _everything_once(topics, 60)


def test_a_topic_that_was_made_anew_is_not_read_for_what_the_old_one_had(topics: Topics) -> None:
    _landings(topics)
    _forget_landing(topics, 1)
    _execute(topics, 'update ops.position set positions = positions || \'{"topic_id": "another"}\'')
    before = _state(topics)

    with pytest.raises(SourceError, match="made anew"):
        topics.ask("0")

    assert _state(topics) == before


# -------------------------------------------------------------------------------------------------- the range


def test_times_are_those_the_broker_got_the_records_at(topics: Topics) -> None:
    noon = datetime(2025, 10, 7, 12, tzinfo=UTC)
    _let_producers_say_the_time(topics)
    for hour in range(3):
        at = noon + timedelta(hours=hour)
        topics.send((topics.event(hour * 10 + n, minutes=hour * DAY) for n in range(10)), at=at)
        topics.batch()

    assert topics.ask("2025-10-07T12:30", "2025-10-07T14:00").spans == {0: [(10, 20)]}
    assert topics.ask("2025-10-07T15:00+02:00").spans == {0: [(10, 30)]}
    assert topics.ask("5", "2025-10-07T13:00:00.001").spans == {0: [(5, 20)]}
    _forget_landing(topics, 1)  # raw says 20 now, the broker knows better
    assert topics.ask("2025-10-07T12:30", "2025-10-07T14:00").recovered == 10
    topics.batch()
    _everything_once(topics, 30)
    with pytest.raises(BadReplay, match="nothing to replay"):
        topics.ask("2025-10-08")


def test_a_dry_run_says_what_would_be_done_and_does_nothing(topics: Topics) -> None:
    _landings(topics)
    _forget_landing(topics, 1)
    before = _state(topics)

    replay = topics.ask("10", "30", dry_run=True)

    assert _state(topics) == before
    assert f"topic {topics.topic()}, partition 0: offsets 10 to 29" in replay.found()
    assert "not in the lake: partition 0, offsets 20 to 29; the broker is asked" in replay.found()
    assert "2 partitions of 2 tables are to be made right" in replay.done()


def test_what_was_never_taken_in_can_not_be_replayed(topics: Topics) -> None:
    with pytest.raises(BadReplay, match="by partition: none"):
        topics.ask("0")
    _landings(topics, 1)
    topics.send([topics.event(20)])
    assert topics.ask("10", "1000").spans == {0: [(10, 20)]}
    with pytest.raises(BadReplay, match="0: 20"):
        topics.ask("20")
    with pytest.raises(BadReplay, match="no partition 9"):
        topics.ask("0", None, 9)


def test_twice_is_once(topics: Topics) -> None:
    _landings(topics)
    _forget_landing(topics, 1)
    topics.ask("0")
    topics.ask("0")
    topics.batch()
    before, landings = (
        _state(topics)["rows"],
        topics.rows("select count(*) from ops.ledger where kind='land'"),
    )

    topics.ask("0")
    done = topics.batch()

    assert sum(built.rows_written for table in done.values() for built in table) == 0
    assert _state(topics)["rows"] == before
    assert topics.rows("select count(*) from ops.ledger where kind='land'") == landings
    _everything_once(topics, 60)


@pytest.mark.parametrize("name", ["replay.written", "replay.landed", "replay.marked"])
def test_a_kill_is_made_good_by_whoever_comes_next(topics: Topics, name: str) -> None:
    _landings(topics)
    right = topics.rows()
    _forget_landing(topics, 1)
    _tamper(topics, 0)

    assert topics.die("ask", name) == -signal.SIGKILL
    if name == "replay.written":
        assert topics.rows(f"select 1 from ops.partition_state where fingerprint = '{REPLAYED}'") == []
        topics.ask("0")
    topics.batch()

    assert topics.rows() == right
    _everything_once(topics, 60)


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
    assert copy.run("plan").out == "Nothing is new: a run would rebuild nothing.\n"
    physical = copy.physical()
    assert copy.run("replay", "--topic", "user_events", "--from", "0").code == 0
    assert copy.physical() == physical


def _until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)

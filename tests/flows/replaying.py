"""What the tests of `replay` do to a warehouse and its topics, and what they look at."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from tests.flows.streaming.topics import Topics

STAGING, FACT = "stg_events__user_events", "fct_events"
DAY = 1440
_SET = AlterConfigOpType.SET


def days(topics: Topics, days: int = 3, each: int = 50) -> None:
    """Offsets 0 to 49 of partition 0 are of the latest day, the next 50 of the day before, and so on."""
    for day in range(days):
        topics.send(topics.event(day * each + number, minutes=day * DAY) for number in range(each))


def landings(topics: Topics, number: int = 3, each: int = 20) -> None:
    """So many landings of the batch, all of one day."""
    for first in range(0, number * each, each):
        topics.send(topics.event(first + n) for n in range(each))
        topics.batch()


def day(topics: Topics, ago: int) -> str:
    """The key of the day so many days before the test began."""
    return f"{topics.began - timedelta(days=ago):%Y-%m-%d}"


def execute(topics: Topics, *statements: str) -> None:
    """Do something to the warehouse that no run would."""
    with psycopg.connect(topics.world.warehouse_dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def tamper(topics: Topics, first: int) -> None:
    """Take a row away, falsify one, and put one in that nobody sent."""
    execute(
        topics,
        f"delete from analytics.fct_events where kafka_offset = {first}",
        f"update analytics.fct_events set page = '/forged' where kafka_offset = {first + 1}",
        "insert into analytics.fct_events (event_id, event_type, event_time, kafka_partition, kafka_offset) "
        "select gen_random_uuid(), 'login', event_time, 2, 99 from analytics.fct_events "
        f"where kafka_offset = {first + 2}",
    )


def state(topics: Topics) -> dict[str, Any]:
    """Everything a replay could have changed."""
    names = ("ledger", "position", "partition_state", "landed_window", "stream_batch", "hot_partition")
    found: dict[str, Any] = {name: topics.rows(f"select * from ops.{name} order by 1, 2") for name in names}
    found["rows"] = topics.rows("select *, ctid from analytics.fct_events order by event_id")
    found["files"] = sorted(str(path) for path in topics.world.lake.rglob("*.parquet"))
    return found


def built_since(topics: Topics, sequence: int) -> set[tuple[str, str]]:
    """(table, partition) of what was built or published behind a place in the ledger."""
    query = f"select table_name, partition from ops.ledger where kind <> 'land' and sequence > {sequence}"
    return {(row[0], row[1]) for row in topics.rows(query)}


def sequence(topics: Topics) -> int:
    """The ledger's latest place."""
    return int(topics.rows("select max(sequence) from ops.ledger")[0][0])


def forget_landing(topics: Topics, number: int) -> None:
    """Remove one landing of the user events from the ledger, and its file."""
    table = topics.entity().table
    token, path = topics.rows(
        "select token, files -> 0 ->> 'path' from ops.ledger where kind = 'land' "
        f"and table_name = '{table}' order by sequence offset {number} limit 1"
    )[0]
    execute(topics, f"delete from ops.ledger where token = '{token}'")
    Path(topics.world.lake, path).unlink()


def file_of_landing(topics: Topics, number: int) -> Path:
    """The raw file of one landing of the user events."""
    rows = topics.rows(
        "select files -> 0 ->> 'path' from ops.ledger where kind = 'land' "
        f"and table_name = '{topics.entity().table}' order by sequence offset {number} limit 1"
    )
    return Path(topics.world.lake, rows[0][0])


def let_producers_say_the_time(topics: Topics) -> None:
    """The topic of the user events keeps the timestamps that its producers give."""
    admin = AdminClient({"bootstrap.servers": topics.world.kafka_bootstrap})
    settings = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}
    entries = [ConfigEntry(name, value, incremental_operation=_SET) for name, value in settings.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topics.topic(), incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(20)


def everything_once(topics: Topics, count: int) -> None:
    """Each of so many records stands once in raw and once in the facts, and nothing is left to be done."""
    assert topics.raw_places() == [(topics.topic(), 0, offset) for offset in range(count)]
    assert topics.numbers() == [(number, 0, number) for number in range(count)]
    assert topics.rows("select count(*) from ops.partition_state where fingerprint = 'replay'") == [(0,)]
    assert topics.left_over() == []

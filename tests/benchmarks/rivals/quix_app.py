"""quixstreams counting events by key in windows of five minutes, exactly once, into a topic; and, where it is
given tables, doing what the stream does, but for the lake: each event once as a row in PostgreSQL and in
its count, the counts in PostgreSQL too. Runs in its own environment.

Arguments: broker, topic, its partitions, consumer group, messages, state folder; and, for the tables,
milliseconds that a window waits for late events, DSN, schema. Prints the seconds from the first message to
the last commit; starting, joining the group and making topics are not counted.

State, counts in the topic and offsets are committed in one transaction. State is kept by partition: a key
that is in several is counted in each. For the tables the topic has to go by key, which spares writing
every message to another one. The sinks write before the commit and again after a crash: the keys of their
tables make that harmless. Commits are as quixstreams sets them, every five seconds: every second, every
thirty, every 10,000 or 20,000 messages differ from it by less than two runs of one setting do, and so do
writing events with `ON CONFLICT DO NOTHING` or `DO UPDATE` (an event never changes) and leaving out the
two indexes beside the key. Identities of events are kept for good, which spares their expiry.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Any

from psycopg2.extensions import AsIs, parse_dsn
from quixstreams import Application, State
from quixstreams.dataframe import StreamingDataFrame
from quixstreams.models import Topic, TopicConfig
from quixstreams.sinks.community.postgresql import PostgreSQLSink

_WINDOW_MS = 5 * 60 * 1000
_NULL = AsIs("NULL")
"""Instead of None: a column that is None in the first row of a batch the sink leaves out of all of them."""


def main(
    bootstrap: str, topic: str, partitions: str, group: str, messages: str, folder: str, *tables: str
) -> None:
    """Take in so many messages, commit, and end."""
    processed: list[float] = []

    def note(*_: object) -> None:
        processed.append(time.perf_counter())
        if len(processed) == int(messages):
            application.stop()  # what is processed is committed before it ends

    application = Application(
        bootstrap,
        consumer_group=group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        state_dir=folder,
        on_message_processed=note,
        loglevel="ERROR",
    )
    alike = TopicConfig(num_partitions=int(partitions), replication_factor=1)
    events = application.topic(topic, key_deserializer="str", timestamp_extractor=_event_time, config=alike)
    frame, told = application.dataframe(events), application.topic(f"{group}-counts", config=alike)
    if tables:
        _do_the_same(frame, told, *tables)
    else:
        _count(frame, told)
    application.run()
    print(time.perf_counter() - processed[0])


def _count(frame: StreamingDataFrame, told: Topic, late_ms: str = "0") -> StreamingDataFrame:
    """Counts as soon as they are committed, as ours are."""
    counts = frame.tumbling_window(_WINDOW_MS, int(late_ms)).count().current()
    counts.to_topic(told)
    return counts


def _do_the_same(frame: StreamingDataFrame, told: Topic, late_ms: str, dsn: str, schema: str) -> None:
    """An event that was sent again goes no further than the first step."""
    frame = frame.filter(_is_new, stateful=True)
    frame.apply(_event).sink(_sink(dsn, schema, "fct_events", on_conflict_do_nothing=True))
    key = ["user_id", "window_start"]
    _count(frame.filter(_is_signed_in), told, late_ms).apply(_row, metadata=True).sink(
        _sink(dsn, schema, "user_event_counts", primary_key_columns=key, upsert_on_primary_key=True)
    )


def _sink(dsn: str, schema: str, table: str, **conflict: Any) -> PostgreSQLSink:
    """Into a table that is there, without the columns that the sink would add."""
    return PostgreSQLSink(
        **{"password": "", **parse_dsn(dsn)},
        schema_name=schema,
        table_name=table,
        schema_auto_update=False,
        include_metadata=False,
        **conflict,
    )


def _event_time(value: dict[str, Any], *_: object) -> int:
    return int(datetime.fromisoformat(value["event_time"]).timestamp() * 1000)


def _is_new(value: dict[str, Any], state: State) -> bool:
    """The state is that of the message's key, under which a copy comes too."""
    if state.exists(value["event_id"]):
        return False
    state.set(value["event_id"], True)
    return True


def _is_signed_in(value: dict[str, Any]) -> bool:
    return value["user_id"] is not None


def _event(value: dict[str, Any]) -> dict[str, Any]:
    return {name: _NULL if found is None else found for name, found in value.items()}


def _row(value: dict[str, Any], key: str, *_: object) -> dict[str, Any]:
    return {
        "user_id": int(key),
        "window_start": datetime.fromtimestamp(value["start"] / 1000, UTC),
        "window_end": datetime.fromtimestamp(value["end"] / 1000, UTC),
        "event_count": value["value"],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])

"""quixstreams doing what the stream does, but for the lake: each event once as a row in PostgreSQL and in the
count of its user and five minutes, the counts in PostgreSQL and in a topic. Runs in its own environment.

Arguments: broker, topic (partitions by key), its partitions, consumer group, messages, state folder,
milliseconds that a window waits for late events, DSN, schema of the tables. Prints the seconds from the first
message to the last commit; starting, joining the group and making topics are not counted.

State, counts in the topic and offsets are committed in one transaction. The sinks write before it and again
after a crash: the keys of their tables make that harmless. Commits are as quixstreams sets them, every five
seconds: every second, every thirty, every 10,000 or 20,000 messages differ from it by less than two runs of
one setting do, and so do writing events with `ON CONFLICT DO NOTHING` or `DO UPDATE` (an event never changes)
and leaving out the two indexes beside the key. Identities of events are kept for good, which spares their
expiry.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Any

from psycopg2.extensions import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    AsIs,
    parse_dsn,
)
from quixstreams import Application, State  # type: ignore[import-not-found,import-untyped,unused-ignore]
from quixstreams.models import TopicConfig  # type: ignore[import-not-found,import-untyped,unused-ignore]
from quixstreams.sinks.community.postgresql import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    PostgreSQLSink,
)

_WINDOW_MS = 5 * 60 * 1000
_NULL = AsIs("NULL")
"""Instead of None: a column that is None in the first row of a batch the sink leaves out of all of them."""


def main(
    bootstrap: str,
    topic: str,
    partitions: str,
    group: str,
    messages: str,
    folder: str,
    late_ms: str,
    dsn: str,
    schema: str,
) -> None:
    """An event that was sent again goes no further than the first step."""
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
    frame = application.dataframe(events).filter(_is_new, stateful=True)
    frame.apply(_event).sink(_sink(dsn, schema, "fct_events", on_conflict_do_nothing=True))
    counts = frame.filter(_is_signed_in).tumbling_window(_WINDOW_MS, int(late_ms)).count().current()
    counts.to_topic(application.topic(f"{group}-counts", config=alike))
    key = ["user_id", "window_start"]
    counts.apply(_count, metadata=True).sink(
        _sink(dsn, schema, "user_event_counts", primary_key_columns=key, upsert_on_primary_key=True)
    )
    application.run()
    print(time.perf_counter() - processed[0])


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


def _count(value: dict[str, Any], key: str, *_: object) -> dict[str, Any]:
    return {
        "user_id": int(key),
        "window_start": datetime.fromtimestamp(value["start"] / 1000, UTC),
        "window_end": datetime.fromtimestamp(value["end"] / 1000, UTC),
        "event_count": value["value"],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])

"""quixstreams counting events of each key in windows of five minutes, exactly once. Runs in an environment of
its own.

Arguments: broker, topic, its partitions, consumer group, messages, state folder. Prints the seconds from the
first message to the last commit; starting, joining the group and making topics are not counted. A key that is
in several partitions is counted in each: it is spared writing every message to a topic of its own.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Any

from quixstreams import Application  # type: ignore[import-not-found,import-untyped,unused-ignore]
from quixstreams.models import TopicConfig  # type: ignore[import-not-found,import-untyped,unused-ignore]

_WINDOW_MS = 5 * 60 * 1000


def main(bootstrap: str, topic: str, partitions: str, group: str, messages: str, folder: str) -> None:
    """Counts, their changelog and the offsets are committed in one transaction, every five seconds."""
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
    frame = application.dataframe(events)
    frame = frame.tumbling_window(_WINDOW_MS).count().current()  # as soon as it is committed, as ours
    frame.to_topic(application.topic(f"{group}-counts", config=alike))
    application.run()
    print(time.perf_counter() - processed[0])


def _event_time(value: dict[str, Any], *_: object) -> int:
    return int(datetime.fromisoformat(value["event_time"]).timestamp() * 1000)


if __name__ == "__main__":
    main(*sys.argv[1:])

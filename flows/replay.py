"""Replay records of a topic: `python -m flows replay --topic TOPIC --from OFFSET|TIME`, or the deployment."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.asked import refused
from flows.batch import run, run_name, runner
from flows.hung import HOUR
from flows.progress import Progress
from flows.services import open_services
from flows.streaming.replays import Asked, BadReplay, ask, entity_of


# As of the batch: tasks are tried again, and what was marked and not built stays marked for the next run.
@flow(
    name="replay",
    flow_run_name=run_name,
    task_runner=runner,
    timeout_seconds=12 * HOUR,
    retries=0,
    result_serializer="json",
)
def replay(
    topic: str, start: str, end: str | None = None, partitions: list[int] | None = None
) -> dict[str, Any]:
    """Rebuild what the records of a topic in [start, end) touch, from raw or from the broker.

    A bound is an offset, or a time at which the broker got a record. The days are first marked, then built by
    the ordinary run: what a killed replay has not built stays marked and is built by the next run of either.
    Refused where nothing of the kind was ever taken in; what was, and is lost, fails it.

    Args:
        topic: Name of the topic.
        start: First offset, or the time at which the broker got the first record, as 2025-10-07T12:00.
        end: The same, exclusive; without it all that was taken in.
        partitions: Only these partitions of the topic.
    """
    try:
        entity, asked = entity_of(topic), Asked.parse(start, end, partitions)
        services = open_services()
        with services.lake, Progress("replay") as progress:
            ask(services, entity, asked, progress)
    except BadReplay as error:
        return refused(error)
    return run("replay", (), [f"{entity.table}+"], yes=False).as_json()

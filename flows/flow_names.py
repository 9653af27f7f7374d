"""The flows by name, and what each of those that land reads: said once, without loading Prefect."""

from __future__ import annotations

from flows.extract import debezium
from transforms import registry
from transforms.entities import Kafka, Rest, SourceEntity

BATCH = "analytics_pipeline"
"""Lands every source and builds all that is due."""
APIS = "api_ingest"
OF_SOURCES = (BATCH, APIS)
"""Runs that land, and build what their sources touch."""
MENDING = ("backfill", "rebuild", "replay")
"""Runs that build what is due of some tables, from what was landed."""
STREAM = "event_stream"
ERASE, MONITOR = "erase", "monitor"
BACKUP, PHYSICAL = "backup", "physical"
"""A backup is a dump, or is about a copy of the server's files: neither makes good that the other failed."""
DRILL, MAINTAIN = "drill", "maintain"
BY_HAND = {
    BATCH: "python -m flows",
    APIS: "python -m flows",
    STREAM: "python -m flows stream",
    BACKUP: "python -m flows backup",
    DRILL: "python -m flows restore --verify",
    MAINTAIN: "python -m flows maintain",
}
"""Commands that do what these do by themselves; of the others only the deployment does it."""


def reads(flow: str) -> tuple[SourceEntity, ...]:
    """What a flow lands; nothing for one that lands nothing."""
    every = registry.entities()
    if flow == APIS:
        return tuple(entity for entity in every if isinstance(entity.read, Rest))
    if flow == STREAM:
        return (*(entity for entity in every if isinstance(entity.read, Kafka)), *debezium.entities())
    return every if flow == BATCH else ()

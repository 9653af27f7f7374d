"""The broker and what captures changes: topics, how long they are kept, connector, slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from flows.diagnosis import TIMEOUT_SECONDS, Finding
from flows.errors import FlowsError
from flows.settings import Settings
from flows.stores.ledger import Ledger

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

    from flows.extract.debezium_observed import Observed
    from transforms.entities import SourceEntity


def kafka(settings: Settings) -> list[Finding]:
    """The broker, its topics, whether it keeps them for as long as they are declared to be, and whether each
    can be read on.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    from flows.diagnosis.broker_version import BrokerVersion
    from flows.extract import debezium
    from transforms.entities import LEAST_KEPT, Kafka, Postgres
    from transforms.sources.events import ENTITIES

    bootstrap = settings.require("kafka_bootstrap")
    broker = BrokerVersion()
    options = {**settings.kafka_options, "debug": "feature"}
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 7, **options}, logger=broker.log)
    try:
        there = client.list_topics(timeout=TIMEOUT_SECONDS).topics
    except KafkaException:
        return [
            Finding(
                "Kafka",
                False,
                f"no broker answers at {bootstrap}",
                "Start it or correct ANALYTICS_KAFKA_BOOTSTRAP.",
            )
        ]
    wanted = {e.read.topic: e.read.retention for e in ENTITIES if isinstance(e.read, Kafka)}
    missing = [topic for topic in wanted if topic not in there]
    seen = f"{len(wanted) - len(missing)} of {len(wanted)} topics at {bootstrap}"
    advice = f"Create: {', '.join(missing)}." if missing else ""
    if settings.cdc_engine == "kafka":
        captured = (e.read for e in debezium.entities())
        wanted |= {
            debezium.topic(settings, read): LEAST_KEPT for read in captured if isinstance(read, Postgres)
        }
    kept = {topic: least for topic, least in wanted.items() if topic in there}
    client.poll(0)  # what it has logged is handed over then
    topics = Finding("Kafka", not missing, seen, advice)
    read = [entity for entity in ENTITIES if isinstance(entity.read, Kafka) and entity.read.topic in there]
    return [topics, broker.finding(), *_retention(client, bootstrap, kept), *_positions(settings, read)]


def _positions(settings: Settings, entities: Sequence[SourceEntity]) -> list[Finding]:
    """One finding for each topic that can't be read on, else one for all; nothing where there is none, or the
    warehouse does not say how far they were read.
    """
    from flows.extract import SourceError
    from flows.services import Services
    from flows.streaming.journal import Journal
    from flows.streaming.lost import broker_topic

    services = Services(settings)
    try:
        with services.warehouse.connect() as connection:
            if not Ledger(connection).is_there():
                return []
            known = {entity.table: Journal(connection).positions(entity.table) for entity in entities}
    except FlowsError:
        return []  # the warehouse's own finding says why
    found = []
    for entity in entities:
        topic = broker_topic(services, entity)
        try:
            topic.spans(known[entity.table])
        except SourceError as error:
            found.append(Finding(f"Kafka: {topic.name}", False, "can't be read on", str(error)))
    if entities and not found:
        found = [Finding("Kafka: positions", True, f"{len(entities)} topics can be read on")]
    return found


def _retention(client: AdminClient, bootstrap: str, declared: Mapping[str, timedelta]) -> list[Finding]:
    """One finding for each topic that keeps less than declared, else one for all."""
    from flows.extract import kafka_retention

    subject = "Kafka: retention"
    shorter = kafka_retention.shorter(client, declared, TIMEOUT_SECONDS) if declared else []
    if not shorter:
        return [Finding(subject, True, f"{len(declared)} topics keep what is declared")]
    return [Finding(subject, one.kept is None, str(one), one.mending(bootstrap)) for one in shorter]


def capture(settings: Settings) -> list[Finding]:
    """Kafka Connect, connector, slot, publication, replica identities; nothing where nothing is cdc."""
    from flows.extract import debezium

    entities = debezium.entities()
    if not entities:
        return []
    from flows.cdc.status import wal_problems
    from flows.extract.debezium_guard import judged
    from flows.extract.debezium_observed import connect, observe

    with connect(settings) as client:
        title, version = client.title, client.version()
    seen = observe(settings, entities)
    subject, state, slot = "change capture", seen.connector, seen.slot
    halts = judged(seen, entities, {})
    shared = set(halts.values()) if len(halts) == len(entities) and len(set(halts.values())) == 1 else set()
    advice = f"{next(iter(shared))}." if shared else ""
    by_table = {} if shared else halts
    published = f"{len(entities) - len(by_table)} of {len(entities)} tables are published and name their rows"
    wal = wal_problems(seen)
    runs = bool(state and state.runs)
    is_slot_well = bool(slot and slot.plugin == "pgoutput" and slot.wal_status != "lost" and not wal)
    # What halts every table is told once, by connector or slot where it is one of them.
    is_told = not (shared and runs and is_slot_well)
    return [
        Finding(f"{subject}: Connect", True, f"{title} {version} answers"),
        Finding(
            f"{subject}: connector",
            runs,
            f"{state.connector.state.lower()}, {len(state.tasks)} task" if state else "not registered",
            advice or "Look at it: python -m flows cdc status",
        ),
        Finding(
            f"{subject}: slot",
            is_slot_well,
            f"{slot.wal_status}, {slot.kept / 1e6:.0f} MB of WAL kept" if slot else "missing",
            next(iter(wal), advice),
        ),
        Finding(
            f"{subject}: tables",
            is_told and not by_table and seen.published is not None,
            published if seen.published is not None else "no publication",
            " ".join(sorted({f"{reason}." for reason in by_table.values()})) or advice,
        ),
        *_offsets(settings, seen, entities),
    ]


def _offsets(settings: Settings, seen: Observed, entities: Sequence[SourceEntity]) -> list[Finding]:
    """Whether Kafka Connect knows how far the connector has read; nothing where no connector is there."""
    from flows.cdc import lost_offsets
    from flows.cdc.status import positions_of, who

    if seen.connector is None or settings.cdc_engine == "embedded":
        return []
    halts = lost_offsets.halts(settings, seen, entities, positions_of(settings, entities)[0])
    halted = who([entity.name for entity in entities if entity.table in halts], len(entities))
    return [
        Finding(
            "change capture: offsets",
            not halts,
            halted if halts else "nothing that waits was read anew unasked",
            " ".join(sorted({f"{reason}." for reason in halts.values()})),
        )
    ]

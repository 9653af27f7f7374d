"""A broker that wants TLS and a password: every client of ours gives both, and holds it to its name."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from flows.cdc import topics as change_topics
from flows.diagnosis import streams
from flows.extract import SourceError, SourceRefused
from flows.extract import kafka as kafka_extract
from flows.extract.waiting import waiting
from flows.landing import land
from flows.sandbox import kafka, lifecycle, processes
from flows.services import Services
from flows.streaming.journal import Journal
from tests.broker import make_topics
from tests.flows.streaming.topics import Topics
from tests.house import House

pytestmark = pytest.mark.full

USER, PASSWORD = "analytics", "pass word/1"
LEAST = "least"
"""Who may do nothing but what it is given."""


@dataclass
class Broker:
    """A broker with a plain door for the tests and one that wants TLS and a password."""

    plain: str
    secure: str
    options: dict[str, str]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("sasl")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    # Java reads a key in PKCS 8 alone.
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    store = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    store += b"".join(one.bytes() for one in certificate.cert_chain_pems) + authority.cert_pem.bytes()
    (folder / "store.pem").write_bytes(store)
    plain, secure, controller = processes.free_port(), processes.free_port(), processes.free_port()
    settings = kafka.SETTINGS | {
        "log.dirs": str(folder / "data"),
        "listeners": f"BROKER://127.0.0.1:{plain},SECURE://127.0.0.1:{secure},"
        f"CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"BROKER://127.0.0.1:{plain},SECURE://localhost:{secure}",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.secure.plain.sasl.jaas.config": (
            f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}" '
            f'user_{LEAST}="{PASSWORD}";'
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{USER}",
        "listener.name.secure.ssl.keystore.type": "PEM",
        "listener.name.secure.ssl.keystore.location": str(folder / "store.pem"),
    }
    server = folder / "server.properties"
    server.write_text(kafka.properties(settings))
    classpath = kafka.jars(lifecycle.CACHE, print)
    kafka._format(classpath, server)
    process = processes.spawn(
        [*kafka.launch(folder, "-Xmx512m", "-XX:+UseSerialGC"), "kafka.Kafka", server],
        log=folder / "kafka.log",
        cwd=classpath,
        environment=kafka.ENVIRONMENT,
        inherit=False,
    )
    try:
        processes.wait_until(
            kafka.ready(plain), process=process, seconds=90, part="kafka", log=folder / "kafka.log"
        )
        yield Broker(
            f"127.0.0.1:{plain}",
            f"localhost:{secure}",
            {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "PLAIN",
                "sasl.username": USER,
                "sasl.password": PASSWORD,
                "ssl.ca.location": str(folder / "ca.pem"),
                "broker.address.family": "v4",
            },
        )
    finally:
        processes.end(process, [(signal.SIGKILL, 10.0)])


def _services(topics: Topics, broker: Broker, **changed: str) -> Services:
    """The services of these topics, by the door that wants TLS and a password."""
    world = topics.world
    settings = {
        "kafka_options": {**broker.options, **changed},
        "dead_topics": True,
        **world.settings,
    }
    return replace(world, kafka_bootstrap=broker.secure, settings=settings).services()


def test_every_client_comes_in_with_tls_and_the_password(
    house: House, broker: Broker, tmp_path: Path
) -> None:
    topics = Topics.build(house, tmp_path, bootstrap=broker.plain)
    topics.send([topics.event(number, user_id=7) for number in range(20)])
    topics.send([b"not JSON"], partition=1)
    services = _services(topics, broker)

    topics.stream(services)  # member of a group, admin, transactional producer, producer of dead letters
    assert topics.rows("select count(*) from analytics.fct_events") == [(20,)]
    assert sum(revision[-1][0] for revision in topics.told().values()) == 20
    assert len(list(topics._messages(f"{topics.topic()}.dead"))) == 1

    topics.send([topics.event(number, user_id=8) for number in range(20, 25)])
    entity = topics.entity()
    with services.lake:
        assert waiting(entity, _positions(services, entity.table), services.settings)
        landed = land(services, entity, "batch")  # the batch's consumer, and the questions to the topic
    assert landed is not None
    assert landed.rows == 5
    found, version, kept = streams.kafka(services.settings)
    assert "topics at localhost" in found.seen
    assert version.seen == "Kafka 4.0 or newer"
    assert (kept.subject, kept.well) == ("Kafka: retention", True)
    change_topics.make(services.settings, ["sasl.changes"])  # what manages Debezium's topics
    assert change_topics.end_of(services.settings, "sasl.changes") == 0


def test_the_dead_topic_is_made_with_all_that_the_options_say(
    house: House, broker: Broker, tmp_path: Path
) -> None:
    topics = Topics.build(house, tmp_path, bootstrap=broker.plain)
    topics.send([b"not JSON"])
    unknown = {
        "ssl.ca.location": "/etc/ssl/certs/ca-certificates.crt",
        "enable.ssl.certificate.verification": "false",
    }
    topics.stream(_services(topics, broker, **unknown))
    assert len(list(topics._messages(f"{topics.topic()}.dead"))) == 1


def _positions(services: Services, table: str) -> dict[str, Any]:
    with services.ledger() as ledger:
        return Journal(ledger.connection).positions(table)


@pytest.mark.parametrize(
    "changed",
    [
        {"sasl.password": "kanarie4711"},
        {"ssl.ca.location": "/etc/ssl/certs/ca-certificates.crt"},
        {"security.protocol": "PLAINTEXT"},
    ],
)
def test_a_wrong_password_and_an_unknown_authority_are_refused_and_the_setting_is_named(
    house: House, broker: Broker, tmp_path: Path, changed: dict[str, str]
) -> None:
    topics = Topics.build(house, tmp_path, bootstrap=broker.plain)
    topics.send([topics.event(1)])
    services = _services(topics, broker, **changed)
    bootstrap, options = services.settings.require("kafka_bootstrap"), services.settings.kafka_options
    with pytest.raises(SourceError, match="ANALYTICS_KAFKA_OPTIONS") as refused:
        kafka_extract.lag(bootstrap, topics.topic(), {}, options=options, request_seconds=5.0)
    assert "kanarie" not in str(refused.value)


def _give(broker: Broker, topics: Topics, counts: str) -> None:
    """What docs/security.md lists for a stream whose topics are there."""
    rights = [
        *((ResourceType.TOPIC, topics.topic(entity.name), AclOperation.READ) for entity in topics.entities),
        (ResourceType.GROUP, topics.group, AclOperation.READ),
        (ResourceType.TOPIC, counts, AclOperation.WRITE),
        (ResourceType.TOPIC, counts, AclOperation.READ),
        (ResourceType.GROUP, f"{topics.group}-{counts}", AclOperation.READ),
        (ResourceType.TRANSACTIONAL_ID, f"{topics.group}-{counts}", AclOperation.WRITE),
    ]
    admin = AdminClient({"bootstrap.servers": broker.plain})
    given = admin.create_acls(
        [
            AclBinding(
                kind,
                name,
                ResourcePatternType.LITERAL,
                f"User:{LEAST}",
                "*",
                operation,
                AclPermissionType.ALLOW,
            )
            for kind, name, operation in rights
        ]
    )
    for one in given.values():
        one.result(20)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_login_with_the_listed_rights_alone_streams_into_topics_that_are_there(
    house: House, broker: Broker, tmp_path: Path, is_there: bool
) -> None:
    topics = Topics.build(house, tmp_path, bootstrap=broker.plain)
    topics.send([topics.event(number, user_id=7) for number in range(20)])
    (windowed,) = (table.windowed for table in topics.way.windows)
    assert windowed is not None
    if is_there:
        make_topics(broker.plain, windowed.topic, partitions=3)
    _give(broker, topics, windowed.topic)
    services = _services(topics, broker, **{"sasl.username": LEAST})
    services = replace(services, settings=services.settings.model_copy(update={"dead_topics": False}))

    if is_there:
        topics.stream(services)
        assert topics.rows("select count(*) from analytics.fct_events") == [(20,)]
        assert sum(revision[-1][0] for revision in topics.told().values()) == 20
    else:
        with pytest.raises(SourceRefused, match=r"Make the topic, or give this login the rights .*security"):
            topics.stream(services)

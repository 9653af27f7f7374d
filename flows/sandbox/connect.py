"""Kafka Connect with Debezium's PostgreSQL connector: one distributed worker, from the broker's own jars."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from flows.sandbox import kafka, processes
from flows.sandbox.state import Part, Process, State

APP_PASSWORD = "APP_POSTGRES_PASSWORD"
"""Variable of the worker's environment that holds the application database's password. A connector names it
as `${env:APP_POSTGRES_PASSWORD}`, so that the password stands in no topic and in no answer of the worker."""

# One worker: every internal topic has one copy and one partition. Quick sessions: a killed worker comes back
# at once, and a connector that was asked for runs without waiting for others to join.
SETTINGS = {
    "group.id": "analytics-connect",
    "config.storage.topic": "analytics-connect-configs",
    "offset.storage.topic": "analytics-connect-offsets",
    "status.storage.topic": "analytics-connect-status",
    "config.storage.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "status.storage.replication.factor": "1",
    "offset.storage.partitions": "1",
    "status.storage.partitions": "1",
    # A run waits for what the slot confirms.
    "offset.flush.interval.ms": "250",
    "session.timeout.ms": "6000",
    "heartbeat.interval.ms": "1000",
    "scheduled.rebalance.max.delay.ms": "0",
    # Change topics are made by `cdc register`; none appears by itself with other settings.
    "topic.creation.enable": "false",
    "key.converter": "org.apache.kafka.connect.json.JsonConverter",
    "value.converter": "org.apache.kafka.connect.json.JsonConverter",
    "key.converter.schemas.enable": "false",
    "value.converter.schemas.enable": "false",
    "plugin.discovery": "service_load",
    "config.providers": "env",
    "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
    "config.providers.env.param.allowlist.pattern": APP_PASSWORD,
}

STOP = [(signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)]


def start(state: State, cache: Path, port: int, *, exactly_once: bool) -> Process:
    """Start the worker on `port`, beside the sandbox's broker, which must run; does not wait."""
    folder = state.folder / "connect"
    folder.mkdir(exist_ok=True)
    settings = SETTINGS | {
        "bootstrap.servers": str(state.kafka_bootstrap),
        "listeners": f"http://127.0.0.1:{port}",
        "rest.advertised.host.name": "127.0.0.1",
        "rest.advertised.port": str(port),
        "exactly.once.source.support": "enabled" if exactly_once else "disabled",
    }
    properties = _properties(state)
    properties.write_text(kafka.properties(settings))
    return processes.spawn(
        [
            *kafka.launch(folder, "-Xmx512m", "-XX:+UseSerialGC"),
            "org.apache.kafka.connect.cli.ConnectDistributed",
            properties,
        ],
        log=state.logs / f"{Part.CONNECT}.log",
        cwd=kafka.jars(cache, lambda _: None),
        environment={**kafka.ENVIRONMENT, APP_PASSWORD: state.password(Part.APP_POSTGRES)},
        inherit=False,
    )


def _properties(state: State) -> Path:
    return state.folder / "connect" / "connect.properties"


def is_beside(state: State) -> bool:
    """Whether the worker was started beside the broker as it is now. One that lost its port to another
    program has a new address, which a worker never learns.
    """
    return f"bootstrap.servers={state.kafka_bootstrap or ''}" in _properties(state).read_text()


def ready(state: State, port: int) -> Callable[[], bool]:
    """A question to ask until the answer is yes: does the worker, started beside this broker, list its
    connectors?
    """
    return lambda: is_beside(state) and processes.healthy(f"http://127.0.0.1:{port}/connectors")

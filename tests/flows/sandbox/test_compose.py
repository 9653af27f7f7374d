"""The containers of compose.yaml are set as the sandbox's own parts are."""

from __future__ import annotations

import re
from typing import Any

import yaml

from flows.sandbox import connect, kafka, postgres, prefect_server
from flows.sandbox.state import ROOT


def _document() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text()))


def test_kafka_connect_has_the_sandbox_s_settings() -> None:
    document = _document()
    lines = document["configs"]["connect"]["content"].splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    own = {"bootstrap.servers", "listeners", "rest.advertised.host.name", "rest.advertised.port"}
    assert settings.keys() == connect.SETTINGS.keys() | own | {"exactly.once.source.support"}
    assert {name: settings[name] for name in connect.SETTINGS} == connect.SETTINGS
    assert connect.APP_PASSWORD in document["services"]["connect"]["environment"]


def test_kafka_connect_runs_from_the_jars_that_the_sandbox_fetches_on_the_same_kafka() -> None:
    services = _document()["services"]
    listed = dict(line.split()[0].rsplit(":", 1) for line in kafka.JAR_LIST.read_text().splitlines())
    version = listed["org.apache.kafka:connect-runtime"]
    assert services["connect"]["image"] == services["kafka"]["image"] == f"apache/kafka:{version}"
    assert "io.debezium:debezium-connector-postgres" in listed
    (jars,) = services["connect"]["volumes"]
    assert jars == "./.cache/kafka:/opt/jars:ro"
    words = services["connect"]["command"]
    assert words[:-4] == ["java", "--sun-misc-unsafe-memory-access=allow", "-Xmx512m", "-XX:+UseSerialGC"]
    assert words[-4:] == [
        "-cp",
        "/opt/jars/*",
        "org.apache.kafka.connect.cli.ConnectDistributed",
        "/etc/connect.properties",
    ]
    (config,) = services["connect"]["configs"]
    assert config == {"source": "connect", "target": "/etc/connect.properties"}
    # Where compose would put in a variable, or a properties file end a value, nothing is written.
    assert not re.search(r"[$\\]", _document()["configs"]["connect"]["content"])


def test_the_broker_keeps_and_stamps_records_as_the_sandbox_s_does() -> None:
    given = _document()["services"]["kafka"]["environment"]
    for name in ("log.retention.hours", "log.message.timestamp.type", "message.max.bytes"):
        assert str(given[f"KAFKA_{name.upper().replace('.', '_')}"]) == kafka.SETTINGS[name]
    for name, value in kafka.SETTINGS.items():
        if (set_there := given.get(f"KAFKA_{name.upper().replace('.', '_')}")) and "listener" not in name:
            assert str(set_there).lower() == value.lower(), name


def test_the_application_s_database_logs_changes_and_limits_what_a_slot_keeps() -> None:
    command = _document()["services"]["app-postgres"]["command"]
    for name in ("wal_level", "max_slot_wal_keep_size"):
        assert f"{name}={postgres.APP[name]}" in command


def test_every_port_is_the_loopback_interface_s() -> None:
    for service in _document()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_prefect_s_server_keeps_who_is_at_work_as_the_sandbox_s_does() -> None:
    given = _document()["services"]["prefect"]["environment"]
    assert given.items() >= prefect_server.LASTING.items()

"""The containers of compose.yaml are set as the sandbox's own parts are."""

from __future__ import annotations

from typing import Any

import yaml

from flows.sandbox import connect, postgres
from flows.sandbox.lifecycle import ROOT


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


def test_the_application_s_database_logs_changes_and_limits_what_a_slot_keeps() -> None:
    command = _document()["services"]["app-postgres"]["command"]
    for name in ("wal_level", "max_slot_wal_keep_size"):
        assert f"{name}={postgres.APP[name]}" in command


def test_every_port_is_the_loopback_interface_s() -> None:
    for service in _document()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))

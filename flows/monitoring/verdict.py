"""What a monitor says: a value, the limit it is held to, the verdict, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """How a signal stands; `unknown` is what could not be measured, and is never good."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


FROM_BEST = (State.OK, State.UNKNOWN, State.WARNING, State.CRITICAL)
"""From what is well to the worst."""


@dataclass(frozen=True)
class Verdict:
    """One signal about one subject at one moment; a row of ops.health."""

    signal: str
    """data_freshness, row_count, null_rate, schema_drift, …; docs/runbook.md has a section for each."""
    subject: str
    """What it is about: a table, `source:raw_app__orders`, `stream:events`, `slot:…`, …"""
    state: State
    measured_at: datetime
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    """Of value and limit: s, rows, ratio, bytes, …"""
    message: str = ""
    """What is wrong, in one sentence that names the subject; empty when all is well."""
    action: str = ""
    """What to do next, in one sentence."""
    since: datetime | None = None
    """From when on the state is what it is; None until it was compared with the verdict before."""
    observed: Mapping[str, Any] = field(default_factory=dict)
    """More of what was seen, as JSON values."""

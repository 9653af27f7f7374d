"""Asking the services: what was asked, what was seen, what to do."""

from __future__ import annotations

from dataclasses import dataclass

TIMEOUT_SECONDS = 5
"""How long a service may take to answer one question."""


@dataclass(frozen=True)
class Finding:
    """What was asked of one service, whether it is well, what was seen, and what to do when it is not."""

    subject: str
    well: bool
    seen: str
    advice: str = ""

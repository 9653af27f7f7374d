"""The embedded default: real PostgreSQL, Kafka and Prefect, simulated APIs and a generated company.

    state = flows.sandbox.start(folder)        # idempotent: what lives stays, what died comes back
    flows.sandbox.read(folder)                 # its addresses; fast, imports nothing heavy
    flows.sandbox.stop(folder)                 # ends exactly its own processes; data stay

Each part is a process of its own and survives the command that started it.
"""

from __future__ import annotations

from flows.sandbox.lifecycle import OF_THE_WORLD, Health, Status, prepare, reset, start, status, stop
from flows.sandbox.state import ALL, PART_OF_SETTING, Part, State, read

__all__ = [
    "ALL",
    "OF_THE_WORLD",
    "PART_OF_SETTING",
    "Health",
    "Part",
    "State",
    "Status",
    "prepare",
    "read",
    "reset",
    "start",
    "status",
    "stop",
]

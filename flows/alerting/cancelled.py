"""Whether somebody has cancelled a run, at Prefect's server or in its UI: that is no failure."""

from __future__ import annotations

from flows.settings import Settings

CANCELLED = "Cancelled"
"""State in ops.run of a run that somebody did not want any more."""
SAID = "It was cancelled by somebody, at Prefect's server: the next run goes on from there."
STATES = {"CANCELLING", "CANCELLED"}
"""Types of the states in which Prefect has it."""
_TIMEOUT_SECONDS = 5.0


def is_cancelled(settings: Settings, run_id: str) -> bool:
    """Whether the server says so; where it can't be asked nobody is known to have."""
    address = settings.prefect_address
    if address is None or not run_id:
        return False
    import httpx

    from flows.http_client import client

    try:
        with client(f"{address}/", seconds=_TIMEOUT_SECONDS) as server:
            answer = server.get(f"flow_runs/{run_id}")
            return answer.is_success and answer.json()["state_type"] in STATES
    except (httpx.HTTPError, OSError, ValueError, KeyError):
        return False

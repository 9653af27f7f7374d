"""What Prefect's server itself watches for: runs that failed or crashed, and runs that do not start.

Both start the deployment `report-run`, which enters them where the incidents are.
"""

from __future__ import annotations

from typing import Any

from flows.errors import FlowsError
from flows.summary import FAILED

REPORTER = "report_run/report-run"
"""Flow and deployment that an automation starts; its own runs are not watched: nothing may start itself."""
_WATCHED = {
    "a run failed or crashed": (
        [f"prefect.flow-run.{state}" for state in FAILED],
        "prefect.resource.id",
        300,
    ),
    "a run is late": (["prefect.flow-run.Late"], "related:flow:prefect.resource.id", 3600),
}
"""Name → events, and of what and within which seconds one is reported once: each run that failed (each is
about others, as erasures are), but of runs that do not start one of a flow.
"""
_NOT_FOUND = 404


class AutomationsError(FlowsError):
    """Prefect's server did not take the automations."""


def register(address: str) -> list[str]:
    """Make both automations as they are declared here, at the API of this address; again: nothing changes.

    Returns their names. Raises AutomationsError, also where `report-run` is not deployed.
    """
    import httpx

    from flows.http_client import asked, client

    try:
        with client(f"{address}/", seconds=30) as server:
            answer = asked(server, "GET", f"deployments/name/{REPORTER}")
            if answer.status_code == _NOT_FOUND:
                raise AutomationsError(
                    f"The deployment {REPORTER} is not at {address}: `prefect deploy --all` first."
                )
            deployment = answer.raise_for_status().json()["id"]
            known = asked(server, "POST", "automations/filter", {"limit": 200}).raise_for_status().json()
            ids = {automation["name"]: automation["id"] for automation in known}
            for name in _WATCHED:
                wanted = declared(name, deployment)
                if name in ids:
                    asked(server, "PUT", f"automations/{ids[name]}", wanted).raise_for_status()
                else:
                    asked(server, "POST", "automations/", wanted).raise_for_status()
    except httpx.HTTPError as error:
        raise AutomationsError(
            f"The Prefect server at {address} did not take the automations: {error}"
        ) from error
    return list(_WATCHED)


def declared(name: str, deployment: str) -> dict[str, Any]:
    """One of the automations, as Prefect's API takes it; it starts the deployment of this id."""
    events, each, seconds = _WATCHED[name]
    return {
        "name": name,
        "description": "Made by `python -m flows alerts automations`; see docs/alerts.md.",
        "enabled": True,
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": "!report_run"},
            "for_each": [each],
            "expect": events,
            "threshold": 1,
            "within": seconds,
        },
        "actions": [
            {
                "type": "run-deployment",
                "source": "selected",
                "deployment_id": deployment,
                "parameters": {
                    "flow_run": {"__prefect_kind": "jinja", "template": "{{ event.resource.id }}"},
                },
            }
        ],
    }

"""Task runs of a flow run whose process is gone: Prefect ends the flow run and takes them to be at work for
ever.
"""

from __future__ import annotations

import httpx

from flows.http_client import asked
from flows.summary import AT_WORK


def end_left(server: httpx.Client, run_id: str, said: str) -> None:
    """End those that the server takes to be at work, as crashed, with why. Raises httpx.HTTPError where it
    does not do it.
    """
    question = {
        "flow_runs": {"id": {"any_": [run_id]}},
        "task_runs": {"state": {"type": {"any_": list(AT_WORK)}}},
    }
    ended = {"state": {"type": "CRASHED", "name": "Crashed", "message": said}, "force": True}
    for one in asked(server, "POST", "task_runs/filter", question).raise_for_status().json():
        asked(server, "POST", f"task_runs/{one['id']}/set_state", ended).raise_for_status()

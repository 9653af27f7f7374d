"""What prefect.yaml says of each deployment, and its flow of itself."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import yaml
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import is_valid

from flows import backup

DECLARED = Path(__file__).parents[2] / "prefect.yaml"
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(DECLARED.read_text(encoding="utf-8"))["deployments"]
TRIES = {
    "daily": 0,
    "hourly": 0,
    "stream": 0,
    "backfill": 0,
    "replay": 0,
    "monitor": 0,
    "check-history": 0,
    "maintain": 1,
    "daily-summary": 2,
    "report-run": 72,
    "backup": 2,
    "drill": 0,
    "weekly-report": 2,
    "erase": 1,
}
"""How often each flow is tried again as a whole; tasks of the batch have tries of their own."""
_OVERLAP = {"stream": 2}
"""Deployments of which more than one may be at work; of all others one."""


def _flow(deployment: dict[str, Any]) -> Flow[..., Any]:
    file, _, name = deployment["entrypoint"].partition(":")
    found = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(found, Flow)
    return found


def test_there_is_nothing_deployed_that_this_does_not_know() -> None:
    assert {deployment["name"] for deployment in DEPLOYMENTS} == TRIES.keys()


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_a_deployment_says_what_it_is_for_who_may_run_beside_it_how_long_and_how_often(
    deployment: dict[str, Any],
) -> None:
    name, flow = deployment["name"], _flow(deployment)

    assert deployment["description"].endswith(".")
    assert deployment["tags"]
    for field, parameter in parameter_schema(flow).properties.items():
        assert parameter.get("type") or parameter.get("anyOf"), field
        assert parameter.get("description"), field
    limit = deployment["concurrency_limit"]
    assert limit["limit"] == _OVERLAP.get(name, 1)
    # Whoever was asked for waits; what comes by itself again is left out where a late one is worth nothing.
    assert limit["collision_strategy"] == "ENQUEUE" or deployment["schedules"]
    assert flow.timeout_seconds, "a run that hangs would keep its successors waiting for ever"
    assert flow.timeout_seconds <= 25 * 3600
    assert flow.retries == TRIES[name]
    assert not flow.retries or flow.retry_delay_seconds
    assert flow.result_serializer == "json", "what a pickle says is run by whoever reads it"


@pytest.mark.parametrize(
    ("name", "parameter", "right", "wrong"),
    [
        ("stream", "minutes", [0.4, 61, 1440], [-1, 0, 1441, "an hour"]),
        ("erase", "users", [[7], [7, 8]], [[], ["x"], 7]),
        ("report-run", "flow_run", ["prefect.flow-run.0192f3a4-0000-7000-8000-0123456789ab"], ["tonight"]),
    ],
)
def test_prefect_itself_refuses_what_no_run_could_do(
    name: str, parameter: str, right: list[Any], wrong: list[Any]
) -> None:
    (deployment,) = (one for one in DEPLOYMENTS if one["name"] == name)
    schema: Any = parameter_schema(_flow(deployment)).model_dump_for_openapi()

    assert [value for value in right if not is_valid({parameter: value}, schema)] == []
    assert [value for value in wrong if is_valid({parameter: value}, schema)] == []


def test_a_deployed_backup_that_is_to_be_full_is_taken_since_a_dump_always_is() -> None:
    """Refused, it would be tried again twice, ten minutes apart, and keep its place from the nightly one."""
    taken = SimpleNamespace(backup=SimpleNamespace(id="now", rows=7), seconds=1.0)
    with mock.patch.object(backup, "run", return_value=taken):
        assert backup.backup.fn(full=True) == {"backup": "now", "rows": 7, "seconds": 1.0}


def test_a_process_whose_thread_hangs_ends_all_the_same_and_lets_go_of_what_it_held() -> None:
    hanging = (
        "import threading; from flows.hung import end_process_soon\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "end_process_soon(0.1)"
    )
    done = subprocess.run([sys.executable, "-c", hanging], cwd=DECLARED.parent, timeout=60, check=False)
    assert done.returncode == 1


def test_a_look_each_minute_leaves_no_file_of_prefect_s_behind(
    prefect: None, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    from flows.monitor import monitor

    monkeypatch.setenv("ANALYTICS_WAREHOUSE_DSN", dsn)
    monkeypatch.setenv("ANALYTICS_LAKE", str(tmp_path / "lake"))
    kept = tmp_path / "kept"
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: kept}):
        state = monitor(return_state=True)
    assert state.is_completed()
    assert not kept.exists() or [*kept.iterdir()] == []

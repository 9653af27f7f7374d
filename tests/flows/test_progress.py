"""What a run says while it goes on is on its terminal, and in its logs in Prefect."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from threading import Thread

import httpx
from prefect import flow
from prefect.runtime import flow_run

from flows.progress import Progress
from flows.sandbox import Part
from tests.flows.streaming.topics import until
from tests.house import House, ask_prefect


def _say(stream: io.StringIO | None = None) -> None:
    with Progress("told", stream) as progress:
        # Tasks, and whoever works for them, are threads.
        telling = Thread(target=progress.say, args=("fct_events", "12 rows of 100 %"))
        telling.start()
        telling.join()


@flow
def told() -> None:
    _say()
    print(flow_run.id)


def test_what_a_run_says_is_in_its_logs_in_prefect_too(house: House) -> None:
    url = house.parts(Part.PREFECT).prefect_url
    assert url is not None
    quiet = {"PREFECT_API_URL": url, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    done = subprocess.run(
        [sys.executable, "-c", "from tests.flows.test_progress import told; told()"],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "s  fct_events                         12 rows of 100 %\n" in done.stderr
    wanted = {"logs": {"flow_run_id": {"any_": [done.stdout.strip()]}}}
    with httpx.Client(base_url=f"{url}/", trust_env=False) as client:

        def logs() -> list[str]:
            return [line["message"] for line in ask_prefect(client, "POST", "logs/filter", wanted)]

        until(lambda: "fct_events: 12 rows of 100 %" in logs())


def test_where_no_flow_runs_it_is_on_the_terminal_alone() -> None:
    stream = io.StringIO()
    _say(stream)
    assert stream.getvalue().endswith("s  fct_events                         12 rows of 100 %\n")

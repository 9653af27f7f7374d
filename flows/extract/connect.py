"""Kafka Connect's REST API: one connector's configuration, state, offsets, and its life.

Every question ends within `SECONDS`. Messages hold no configuration value but names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from flows.extract import SourceAway, SourceError
from flows.http_client import client

SECONDS = 15.0
_PATIENCE = 60.0
"""Seconds within which a connector is where it was asked to be: Connect deals out its tasks meanwhile."""
_REBALANCE = "a rebalance is expected"

_GOING = frozenset({"RUNNING", "UNASSIGNED", "RESTARTING"})


@dataclass(frozen=True)
class TaskState:
    """A connector or one of its tasks: its state, and why it failed, in one sentence."""

    state: str
    reason: str = ""


@dataclass(frozen=True)
class ConnectorState:
    """How a connector is: RUNNING, PAUSED, STOPPED, FAILED or UNASSIGNED, and each of its tasks."""

    connector: TaskState
    tasks: tuple[TaskState, ...]

    @property
    def runs(self) -> bool:
        """Whether the connector and every task run, and there is one."""
        return bool(self.tasks) and all(one.state == "RUNNING" for one in (self.connector, *self.tasks))

    @property
    def goes_on(self) -> bool:
        """Whether it runs, or will without anybody's doing."""
        return all(one.state in _GOING for one in (self.connector, *self.tasks))

    @property
    def failure(self) -> str:
        """Why it failed, empty where nothing did."""
        failed = [one for one in (self.connector, *self.tasks) if one.state == "FAILED"]
        return (failed[0].reason or "no reason given") if failed else ""


class Connect:
    """One Kafka Connect, as a context manager. `secrets` are blotted out of what it answers."""

    title = "Kafka Connect"

    def __init__(self, url: str, secrets: tuple[str, ...] = (), seconds: float = SECONDS) -> None:
        self.where = urlsplit(url).netloc.rpartition("@")[2]
        self._secrets = secrets
        self._client = client(url.rstrip("/"), seconds=seconds, is_direct=True)

    def __enter__(self) -> Connect:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def version(self) -> str:
        """Which Kafka Connect this is."""
        return str(self._ask("GET", "/").json()["version"])

    def configuration(self, name: str) -> dict[str, str] | None:
        """The connector's configuration; None where there is no such connector."""
        answer = self._ask("GET", f"/connectors/{name}/config", allowed={404})
        return None if answer.status_code == 404 else dict(answer.json())

    def configure(self, name: str, configuration: Mapping[str, str]) -> None:
        """Make the connector or change its configuration.

        Raises SourceError with what Connect does not accept.
        """
        self._ask("PUT", f"/connectors/{name}/config", json=dict(configuration))

    def begin(self, name: str, configuration: Mapping[str, str]) -> None:
        """Make a connector that has read nothing, whatever one of this name had read, and start it."""
        body = {"name": name, "config": dict(configuration), "initial_state": "STOPPED"}
        self._ask("POST", "/connectors", json=body)
        # Offsets outlive the connector that stored them.
        self._wait(name, lambda found: found.connector.state == "STOPPED" and not found.tasks)
        self._ask("DELETE", f"/connectors/{name}/offsets")
        self._ask("PUT", f"/connectors/{name}/resume")

    def state(self, name: str) -> ConnectorState | None:
        """The connector's state now; None where there is no such connector."""
        answer = self._ask("GET", f"/connectors/{name}/status", allowed={404})
        if answer.status_code == 404:
            return None
        found = answer.json()
        tasks = tuple(self._task(task) for task in found["tasks"])
        return ConnectorState(self._task(found["connector"]), tasks)

    def offsets(self, name: str) -> list[Any]:
        """What the connector has stored of how far it has read; empty where it has read nothing."""
        answer = self._ask("GET", f"/connectors/{name}/offsets", allowed={404})
        return [] if answer.status_code == 404 else list(answer.json()["offsets"])

    def pause(self, name: str) -> None:
        """Let the tasks rest; what they have open stays."""
        self._ask("PUT", f"/connectors/{name}/pause")
        self._wait(name, lambda found: {one.state for one in (found.connector, *found.tasks)} == {"PAUSED"})

    def stop(self, name: str) -> None:
        """End the tasks; the configuration and the offsets stay."""
        self._ask("PUT", f"/connectors/{name}/stop")
        self._wait(name, lambda found: found.connector.state == "STOPPED" and not found.tasks)

    def resume(self, name: str) -> None:
        """Start what was paused or stopped, and what failed anew; back once it runs or has failed."""
        self._ask("PUT", f"/connectors/{name}/resume")
        self._ask("POST", f"/connectors/{name}/restart?includeTasks=true&onlyFailed=true")
        self.wait_running(name)

    def wait_running(self, name: str) -> ConnectorState:
        """The connector's state once it runs or has failed. Raises SourceError when that takes a minute, or
        when it is paused.
        """
        return self._wait(name, lambda found: found.runs or bool(found.failure))

    def delete(self, name: str) -> None:
        """Remove the connector and how far it has read, so that one of this name begins anew."""
        self.stop(name)
        self._ask("DELETE", f"/connectors/{name}/offsets")
        self._ask("DELETE", f"/connectors/{name}")

    def _wait(self, name: str, reached: Callable[[ConnectorState], bool]) -> ConnectorState:
        deadline = time.monotonic() + _PATIENCE
        while (found := self.state(name)) is None or not reached(found):
            if time.monotonic() > deadline:
                state = found.connector.state if found else "missing"
                raise SourceError(
                    f"Kafka Connect at {self.where} did not bring connector {name} where it was asked to "
                    f"within {_PATIENCE:.0f} s (it is {state}): look at Connect's log, then ask again."
                )
            time.sleep(0.1)
        return found

    def _task(self, found: Mapping[str, Any]) -> TaskState:
        return TaskState(str(found["state"]), self._sentence(str(found.get("trace") or "")))

    def _sentence(self, trace: str) -> str:
        """The innermost cause's message: it says more than that a task is being killed."""
        lines = [line.strip() for line in trace.splitlines() if line.strip()]
        causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
        told = (causes or lines or [""])[-1 if causes else 0]
        _, colon, message = told.partition(": ")
        return self._clean(message if colon else told)

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        # What stands in brackets is a dump of the connector's state, which can hold a row's key.
        while (shorter := re.sub(r"\s*\[[^\[\]]*\]", "", text)) != text:
            text = shorter
        return text.strip()

    def _ask(
        self, method: str, path: str, *, json: Any = None, allowed: frozenset[int] | set[int] = frozenset()
    ) -> httpx.Response:
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = self._client.request(method, path, json=json)
            except httpx.HTTPError as error:
                raise SourceAway(
                    f"Kafka Connect at {self.where} does not answer ({type(error).__name__}): start it or "
                    "correct ANALYTICS_CONNECT_URL, then run again."
                ) from None
            if not _may_pass(answer) or time.monotonic() > deadline:
                break
            time.sleep(0.25)
        if answer.is_success or answer.status_code in allowed:
            return answer
        raise SourceError(
            f"Kafka Connect at {self.where} refuses {method} {path} ({answer.status_code}): "
            f"{self._told(answer)}"
        )

    def _told(self, answer: httpx.Response) -> str:
        try:
            message = str(answer.json()["message"])
        except (ValueError, KeyError, TypeError):
            message = answer.text
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        # Of an invalid configuration the second line on is what matters, the first says that it is invalid.
        return self._clean(" ".join(lines[:4]))[:600] or "no reason given"


def _may_pass(answer: httpx.Response) -> bool:
    """Whether Connect asks to be asked again, since its workers divide their work among them: with 409 where
    something is to change, with 500 where it is only asked (DistributedHerder.checkRebalanceNeeded).
    """
    return answer.status_code == httpx.codes.CONFLICT or (
        answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR and _REBALANCE in answer.text
    )

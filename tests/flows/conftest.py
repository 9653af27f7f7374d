"""The simulated Stripe and SendGrid, one process per test run, emptied before each test."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.extract.http import RestConnection
from flows.sandbox.apis import SENDGRID_KEY, STRIPE_KEY
from flows.sandbox.apis.store import Store


@dataclass
class Apis:
    """The running services: their address, their objects, their switches."""

    url: str
    store: Store
    control: httpx.Client

    def connection(self, vendor: str = "stripe", **settings: Any) -> RestConnection:
        """Settings of a client that does not wait long."""
        key = STRIPE_KEY if vendor == "stripe" else SENDGRID_KEY
        short = {"wait_initial": 0.01, "wait_jitter": 0.01, "wait_max": 0.05, "timeout": 10.0}
        return RestConnection(**{"base_url": self.url, "key": key, **short, **settings})

    def fault(self, kind: str, **arguments: Any) -> None:
        """Arm a fault (see flows/sandbox/apis/faults.py)."""
        answer = self.control.post("/_control/faults", json={"kind": kind, **arguments})
        assert answer.status_code == 200, answer.text

    def limit(self, vendor: str, requests: int, seconds: float) -> None:
        """Set a rate limit."""
        limits = {vendor: {"requests": requests, "seconds": seconds}}
        assert self.control.put("/_control/limits", json=limits).status_code == 200

    def requests(self, path: str) -> int:
        """How many requests to a path were seen behind the faults."""
        return int(self.control.get("/_control/requests").json().get(path, 0))


@pytest.fixture(scope="session")
def _apis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("apis")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "flows.sandbox.apis", "--folder", str(folder), "--port", str(port)]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{url}/healthz", trust_env=False)
                break
            except httpx.TransportError:
                assert process.poll() is None, "the simulated APIs did not start"
                time.sleep(0.05)
        yield url, folder
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture
def apis(_apis_process: tuple[str, Path]) -> Iterator[Apis]:
    """The simulated services, empty and well-behaved."""
    url, folder = _apis_process
    store = Store(folder)
    store.clear()
    with httpx.Client(base_url=url, trust_env=False) as control:
        control.delete("/_control/faults")
        generous = {"requests": 100_000, "seconds": 1}
        control.put("/_control/limits", json={"stripe": generous, "sendgrid": generous})
        yield Apis(url, store, control)
    store.close()

"""Services that others wrote, to hold ours to: installed once into a git-ignored folder, in bounded time."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CACHE = ROOT / ".cache" / "counterparts"
STRIPE_MOCK = "github.com/stripe/stripe-mock@v0.203.0"
TOXIPROXY = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"
PRISM = "@stoplight/prism-cli@5"


def unavailable(reason: str) -> None:
    """Skip the test with a reason; where counterparts are required (CI=true), fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"required in CI: {reason}")
    pytest.skip(reason)


def stripe_mock() -> Path:
    """Path of stripe-mock, built from source when it is not there yet (40 s); skips or fails without Go."""
    environment = {"GOBIN": str(CACHE), "GOPATH": str(CACHE / "gopath"), "GOFLAGS": "-modcacherw"}
    return _installed(CACHE / "stripe-mock", ["go", "install", STRIPE_MOCK], environment)


def toxiproxy() -> Path:
    """Path of Toxiproxy, built from source when it is not there yet (25 s); skips or fails without Go."""
    folder = CACHE / "toxiproxy"
    environment = {"GOBIN": str(folder), "GOPATH": str(CACHE / "gopath"), "GOFLAGS": "-modcacherw"}
    return _installed(folder / "server", ["go", "install", TOXIPROXY], environment)


def prism() -> Path:
    """Path of Prism, installed when it is not there yet (20 s); skips or fails without npm."""
    folder = CACHE / "prism"
    command = ["npm", "install", "--no-fund", "--no-audit", "--prefix", str(folder), PRISM]
    return _installed(folder / "node_modules" / ".bin" / "prism", command, {})


def _installed(path: Path, command: list[str], environment: Mapping[str, str]) -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    # Test processes beside each other wait for the first one's install.
    with (CACHE / f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path
        if shutil.which(command[0]) is None:
            unavailable(f"{command[0]} is not installed")
        try:
            done = subprocess.run(
                command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=280
            )
        except subprocess.TimeoutExpired:
            unavailable(f"'{' '.join(command)}' took longer than 280 s")
        else:
            if done.returncode != 0 or not path.exists():
                unavailable(f"'{' '.join(command)}' failed: {done.stderr.strip()[-300:]}")
    return path


@contextmanager
def running(command: list[str], port: int) -> Iterator[str]:
    """Run a server until the block ends; gives its address once it listens (30 s at most)."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, f"{command[0]} ended by itself"
            time.sleep(0.1)
        else:
            pytest.fail(f"{command[0]} did not listen within 30 s")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)

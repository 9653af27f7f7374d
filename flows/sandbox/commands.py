"""`python -m flows sandbox start|stop|status|reset|advance`, and `prepare` for the installation."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flows.sandbox as sandbox
from flows import settings
from flows.durations import length_of_time
from flows.errors import FlowsError

_COMPANY = ("app_dsn", "kafka_bootstrap", "stripe_url", "sendgrid_url")
"""Services in which the generated company is."""
_print_lock = threading.Lock()


def show(part: str, message: str) -> None:
    """One line on standard error for what happens to a part; from several threads."""
    with _print_lock:
        print(f"  {part:<19} {message}", file=sys.stderr, flush=True)


def _folder() -> Path:
    return settings.load().sandbox


def _own_services() -> list[str]:
    """The settings that name a service of somebody's own where the company would be."""
    known = settings.load()
    return [f"ANALYTICS_{name.upper()}" for name in _COMPANY if name not in known.unset_services]


def start(
    arguments: argparse.Namespace,
    parts: frozenset[sandbox.Part] = sandbox.ALL,
    exactly_once: bool = False,
    has_tables: Callable[[], None] | None = None,
) -> int:
    """Start every one of `parts` that does not run, and make the world if there is none. `has_tables`: see
    `world.ensure`. Raises FlowsError where the world that is there has another size than asked for.
    """
    begun = time.monotonic()
    sizes = {name: size for name in ("scale", "days") if (size := getattr(arguments, name)) is not None}
    if sizes:
        from flows.sandbox import world

        world.hold_to_size(_folder(), arguments.scale, arguments.days)
    state = start_with_world(_folder(), parts, exactly_once, has_tables, **sizes)
    print(f"The sandbox runs in {state.folder} ({time.monotonic() - begun:.1f} s).")
    print("Next: python -m flows (the batch), python -m flows sandbox status, python -m flows sandbox stop")
    return 0


def start_with_world(
    folder: Path,
    parts: frozenset[sandbox.Part],
    exactly_once: bool = False,
    has_tables: Callable[[], None] | None = None,
    **sizes: Any,
) -> sandbox.State:
    """Start parts, and generate the company once where the application, Kafka and the APIs are all the
    sandbox's: as soon as these are there, the others may come up meanwhile. Where a setting says that one of
    them is somebody's own, nothing is generated, whether or not the sandbox has that part too.
    """

    def ensure(state: sandbox.State, is_held: bool) -> None:
        from flows.sandbox import world

        if _own_services() or not (state.app_dsn and state.kafka_bootstrap and state.stripe_url):
            world.ensure_empty(state, parts)
        else:
            world.ensure(state, **sizes, progress=show, has_tables=has_tables, is_held=is_held)

    return sandbox.start(folder, parts, progress=show, exactly_once=exactly_once, then=ensure)


def stop(_: argparse.Namespace) -> int:
    """End the sandbox's own processes."""
    folder = _folder()
    if sandbox.read(folder) is None:
        print(f"There is no sandbox in {folder}.")
        return 0
    sandbox.stop(folder, progress=show)
    print(f"The sandbox in {folder} is stopped; its data stay. Again: python -m flows sandbox start")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Print which part runs where. Exit code 1 when a part that was started does not run."""
    folder = _folder()
    found = sandbox.status(folder)
    if found is None:
        if arguments.json:
            print(json.dumps({"parts": {}}))
        else:
            print(f"There is no sandbox in {folder}: python -m flows sandbox start")
        return 1
    if arguments.json:
        document = found.state.public() | {
            "deployments_registered": found.deployments_registered,
            "parts": {
                part.value: {
                    "health": health.value,
                    "port": found.state.parts[part].port,
                    "pid": process.pid if (process := found.state.parts[part].process) else None,
                    "log": str(found.state.logs / f"{part}.log"),
                }
                for part, health in found.health.items()
            },
        }
        print(json.dumps(document, indent=2))
    else:
        for part, health in found.health.items():
            port = found.state.parts[part].port
            print(f"  {part:<19} {health.value:<14} {f'port {port}' if port else ''}")
        for name, value in found.state.public().items():
            print(f"  {name:<21} {'-' if value is None else value}")
    return 0 if found.running else 1


def reset(_: argparse.Namespace) -> int:
    """Stop, and delete the sandbox's folder."""
    folder = _folder()
    if sandbox.read(folder) is None:
        print(f"There is no sandbox in {folder}.")
        return 0
    sandbox.reset(folder, progress=show)
    return 0


def _at_rest(folder: Path, found: sandbox.Status | None) -> str | None:
    """What keeps a sandbox's world from living on: parts that have ended, and those that it is made of when
    they do not answer. Another one may be busy.
    """
    health = found.health if found else {}
    parts = [
        part
        for part in sorted(health)
        if health[part] is sandbox.Health.STOPPED
        or (part in sandbox.OF_THE_WORLD and health[part] is not sandbox.Health.RUNNING)
    ]
    if found is None or len(parts) == len(health):
        return f"The sandbox in {folder} does not run"
    named = " and ".join(f"{part} is {health[part].value}" for part in parts)
    return f"Of the sandbox in {folder} {named} (what it said is in {found.state.logs})" if parts else None


def advance(arguments: argparse.Namespace) -> int:
    """Let the world live on for some days, or live. Raises FlowsError where one of its services is somebody's
    own.
    """
    if not arguments.live and (arguments.rate is not None or arguments.seconds is not None):
        raise FlowsError("--rate and --for belong to --live; without it: --days. Nothing was changed.")
    if arguments.live and arguments.days is not None:
        raise FlowsError("--live goes on as long as --for says, and takes no --days. Nothing was changed.")
    seconds = length_of_time(arguments.seconds or "60s")
    folder = _folder()
    if own := _own_services():
        raise FlowsError(
            f"{own[0]} names a service of your own, and a generated company does not live on beside it; "
            "nothing was written. Unset it (environment, .env) and run this again."
        )
    found = sandbox.status(folder)
    reason = _at_rest(folder, found)
    if found is None or reason is not None:
        raise FlowsError(f"{reason}: start it with python -m flows sandbox start")
    from flows.sandbox import world

    if not arguments.live:
        world.advance(found.state, days=1 if arguments.days is None else arguments.days, progress=show)
        return 0
    rate = 1_000.0 if arguments.rate is None else arguments.rate
    # Whole days, so that the truth knows them: the last one ends after the time is over.
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = sandbox.read(folder)
        assert state is not None
        world.advance(state, days=1, rate=rate, progress=show)
    return 0


def prepare(_: argparse.Namespace) -> int:
    """Fetch and make what later starts need, so that they need no network."""
    sandbox.prepare(progress=show)
    return 0

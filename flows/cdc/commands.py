"""The verbs of `python -m flows cdc`."""

from __future__ import annotations

import argparse
import sys

from flows.cdc import registration
from flows.cdc.status import look
from flows.durations import length_of_time
from flows.errors import FlowsError
from flows.extract import debezium as named
from flows.extract.debezium_observed import connect
from flows.settings import Settings, load


def register(arguments: argparse.Namespace) -> int:
    """Capture what is declared as cdc."""
    seconds = length_of_time(arguments.wait) if arguments.wait else 0.0
    registration.register(load(), named.entities(), print, wait_seconds=seconds)
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Say how it is; exit 1 with a sentence for each thing to do."""
    entities = named.entities()
    if not entities:
        print("No table is declared as cdc." if not arguments.json else "{}")
        return 0
    found = look(load(), entities)
    if arguments.json:
        print(found.json())
    else:
        print("\n".join(found.lines()))
        if found.problems:
            print("\n" + "\n".join(found.problems), file=sys.stderr)
    return 1 if found.problems else 0


def resnapshot(arguments: argparse.Namespace) -> int:
    """Read tables again beside the changes."""
    registration.resnapshot(load(), named.entities(), arguments.table, print)
    return 0


def unregister(_: argparse.Namespace) -> int:
    """Remove connector, slot and publication."""
    registration.unregister(load(), print)
    return 0


def pause(_: argparse.Namespace) -> int:
    """Let the connector rest; the source keeps its WAL meanwhile."""
    settings = load()
    name = _connector(settings)
    with connect(settings) as client:
        client.pause(name)
    print(f"Connector {name} is paused. The source keeps all its WAL until python -m flows cdc resume")
    return 0


def resume(_: argparse.Namespace) -> int:
    """Let it go on, from where it was paused or has failed."""
    settings = load()
    name = _connector(settings)
    with connect(settings) as client:
        client.resume(name)
        state = client.state(name)
    if state is not None and state.failure:
        raise FlowsError(f"Connector {name} has failed again: {state.failure}")
    print(f"Connector {name} runs.")
    return 0


def _connector(settings: Settings) -> str:
    name = named.names(settings).connector
    with connect(settings) as client:
        if client.configuration(name) is None:
            raise FlowsError(f"There is no connector {name} yet: python -m flows cdc register")
    return name

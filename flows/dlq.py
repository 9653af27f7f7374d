"""`python -m flows dlq`: records that could not be read, listed, shown and replayed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection

from flows import deadletters
from flows.errors import FlowsError
from flows.readable import readable
from flows.redelivery import Outcome, redeliver
from flows.services import Services, open_services
from transforms import registry

_SHOWN_BYTES = 64 << 10
_SHOWN_LINES = 50


def list_command(arguments: argparse.Namespace) -> int:
    """`python -m flows dlq list`: the letters that wait; with --all those that are done too."""
    with _store(open_services()) as connection:
        counts = deadletters.counted(connection, arguments.entity, replayed=arguments.all)
        letters = deadletters.listed(connection, arguments.entity, arguments.limit, replayed=arguments.all)
    if not counts:
        _known(arguments.entity)
        print("No dead letters." if arguments.all else "No dead letters wait. Those that are done: --all")
        return 0
    for entity, status, reason, number in counts:
        print(f"{number:>8,}  {entity:<24} {status:<10} {reason}")
    print()
    for letter in letters:
        received = f"{letter.received_at:%Y-%m-%d %H:%M}"
        done = f" ({letter.status})" if letter.status != "waiting" else ""
        print(f"{letter.letter_id[:12]}  {received}  {letter.place}: {letter.reason}{done}")
    print("\nOne of them with its bytes: python -m flows dlq show ID")
    print("What would be read if it came again: python -m flows dlq replay --dry-run")
    return 0


def show_command(arguments: argparse.Namespace) -> int:
    """`python -m flows dlq show ID`."""
    with _store(open_services()) as connection:
        letter = deadletters.find(connection, arguments.letter)
    payload = letter.payload or b""
    print(f"id:       {letter.letter_id}")
    print(f"from:     {letter.source}.{letter.entity}, {letter.place}")
    print(f"received: {letter.received_at:%Y-%m-%d %H:%M:%S} UTC")
    print(f"status:   {letter.status}")
    if letter.replayed_at is not None:
        rejected = "" if letter.status == "replayed" else ", which a model has rejected since"
        print(
            f"replayed: {letter.replayed_at:%Y-%m-%d %H:%M:%S} UTC, as batch {letter.replayed_as}{rejected}"
        )
    print(f"reason:   {letter.reason}")
    is_cut = len(payload) > _SHOWN_BYTES
    print(f"bytes:    {len(payload):,}" + (f", the first {_SHOWN_BYTES:,}:" if is_cut else ":"))
    print(_readable(payload[:_SHOWN_BYTES]))
    return 0


def replay_command(arguments: argparse.Namespace) -> int:
    """`python -m flows dlq replay`. Exit code 1 when a letter that was asked for can't be read."""
    given = _given(arguments)
    services = open_services()
    with services.lake:
        with _store(services) as connection:
            asked = _asked(connection, arguments.letter, arguments.entity)
        outcomes = redeliver(services, asked, "replay", given=given, dry_run=arguments.dry_run)
    if not outcomes:
        _known(arguments.entity)
        print("No dead letters wait: there is nothing to replay.")
        return 0
    read = [one for one in outcomes if not one.reason and not one.was_done]
    unread = [one for one in outcomes if one.reason]
    verb = "would be read" if arguments.dry_run else "landed"
    _print(read, lambda one: f"{verb}: {one.table}{f', {one.window}' if one.window else ''}")
    _print([one for one in outcomes if one.was_done], lambda _: "was replayed before; nothing to do")
    _print(unread, lambda one: f"can't be read: {one.reason}")
    if read or unread:
        print()
    share = f"{len(read):,} of {len(outcomes):,}"
    if arguments.dry_run:
        print(f"{share} would be read. Nothing was changed; without --dry-run they are landed.")
    elif read:
        print(f"{share} landed. Build the days they belong to: python -m flows")
    if unread:
        print(
            f"{len(unread):,} can't be read and stay dead letters. Their bytes: python -m flows dlq show ID; "
            "repaired ones: python -m flows dlq replay ID --with FILE"
        )
    return 1 if unread else 0


def _known(entity: str | None) -> None:
    """Raise FlowsError where an entity of which there are no letters is not declared either: a typo."""
    declared = [f"{one.source}.{one.name}" for one in registry.entities()]
    if entity is not None and entity not in {*declared, *(name.split(".")[1] for name in declared)}:
        raise FlowsError(f"No source is declared as {entity}. There are: {', '.join(declared)}.")


def _given(arguments: argparse.Namespace) -> bytes | None:
    """The repaired bytes, when there are some."""
    path: Path | None = arguments.with_file
    if path is None:
        return None
    if len(arguments.letter) != 1:
        raise FlowsError(
            "--with gives the bytes of exactly one dead letter, so name one: "
            "python -m flows dlq replay ID --with FILE"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise FlowsError(
            f"{path} can't be read: {error.strerror}. Nothing was replayed; name a file that holds the "
            "repaired bytes."
        ) from None


def _asked(connection: Connection[Any], letters: Sequence[str], entity: str | None) -> list[str]:
    """Ids of the letters that are meant: those that are named, or all that wait."""
    if not letters:
        return deadletters.waiting(connection, entity)
    found = [deadletters.find(connection, letter) for letter in letters]
    for letter in found:
        if entity not in (None, letter.entity, f"{letter.source}.{letter.entity}"):
            raise FlowsError(
                f"Dead letter {letter.letter_id[:12]} is one of {letter.source}.{letter.entity}, not of "
                f"{entity}. Leave --entity out, or name letters of it."
            )
    return [letter.letter_id for letter in found]


@contextmanager
def _store(services: Services) -> Iterator[Connection[Any]]:
    """A connection to the store. Raises FlowsError where this warehouse has none, or an older one."""
    with services.warehouse.connect() as connection:
        try:
            yield connection
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            raise FlowsError(
                "This warehouse was never prepared by this version, so its dead letters can't be read. "
                "Prepare it with a run: python -m flows"
            ) from None


def _print(outcomes: Sequence[Outcome], say: Any) -> None:
    for one in outcomes[:_SHOWN_LINES]:
        print(f"{one.letter.letter_id[:12]}  {one.letter.place}: {say(one)}")
    if len(outcomes) > _SHOWN_LINES:
        print(f"… and {len(outcomes) - _SHOWN_LINES:,} more of these")


def _readable(payload: bytes) -> str:
    """Bytes as text that can't command a terminal."""
    return readable(payload.decode("utf-8", "backslashreplace"))

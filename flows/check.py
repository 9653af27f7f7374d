"""`python -m flows check [table …]`: hold what is published to its rules; exit 1 when one fails."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from psycopg import Connection

import quality
from flows import incomplete
from flows.build import guard
from flows.check_source import compare
from flows.errors import FlowsError
from flows.maintenance.undeclared import left_by_a_stream
from flows.services import Services, open_services
from flows.stores.apply import hot_partitions
from flows.stores.warehouse_errors import readable_errors
from flows.streaming.findings import lines
from flows.streaming.keeper import keep_once
from flows.streaming.reconcile import reconcile, waiting
from quality import CheckResult
from quality.published import check_published
from transforms import registry


def command(arguments: argparse.Namespace) -> int:
    """Check, record in ops.check_result, print."""
    _only_one(arguments)
    services = open_services()
    if arguments.source:
        return _source(services, arguments.table)
    if arguments.stream:
        return _stream(services)
    names = registry.select(arguments.table) if arguments.table else None
    tables = [table for table in registry.build_order() if names is None or table.name in names]
    if names is not None and not any(table.is_published for table in tables):
        raise FlowsError(
            f"Nothing of {', '.join(arguments.table)} is ever published, so there is nothing to check: a run "
            "holds it to its rules before anything is made of it. Name tables that people read, or none."
        )
    now = services.settings.now()
    held_to = quality.all_rules if arguments.all_history else quality.rules
    with readable_errors():
        results = check_published(services.settings.require("warehouse_dsn"), tables, now, held_to)
    with services.warehouse.connect() as connection, connection.transaction():
        guard.record(connection, f"check-{now:%Y%m%dT%H%M%S}", results, now)
        parts_missing = [] if names else incomplete.still(connection)
        ahead = _ahead(connection, results)
    print(quality.render(results))
    for sentence in ahead:
        print(sentence)
    for sentence in parts_missing:
        print(sentence)
    return 1 if parts_missing or any(result.is_failure for result in results) else 0


def _ahead(connection: Connection[Any], results: Sequence[CheckResult]) -> list[str]:
    """What may stand behind a failure, where a rule that reads other tables fails in one that a stream writes
    into.
    """
    failed = {(result.table, result.rule) for result in results if result.is_failure}
    sentences = []
    for table in map(registry.table, sorted({name for name, _ in failed})):
        comparing = {rule.name for rule in quality.all_rules(table) if guard.reads_others(table, rule)}
        hot = sorted(hot_partitions(connection, table.name))
        if hot and any((table.name, rule) in failed for rule in comparing):
            sentences.append(
                f"{table.name}: a stream writes into {', '.join(hot)}, and what it shows may be about rows "
                "of other tables that no run has built yet. Let one build them, then check again: "
                "python -m flows"
            )
    return sentences


def _only_one(arguments: argparse.Namespace) -> None:
    """Raise FlowsError for words of which all but one would go unanswered."""
    kinds = [kind for kind in ("source", "stream", "all_history") if getattr(arguments, kind)]
    if len(kinds) > 1:
        both = " and ".join(f"--{kind.replace('_', '-')}" for kind in kinds)
        raise FlowsError(f"{both} are checks of their own: ask for one after the other.")
    if arguments.stream and arguments.table:
        raise FlowsError("check --stream looks at all that the stream wrote: leave the tables out.")


def _source(services: Services, names: Sequence[str]) -> int:
    """`python -m flows check --source`: the application's tables beside the lake's, key by key."""
    found = []
    with services.lake:
        for compared in compare(services, names):
            print(compared.line(), flush=True)
            found.append(compared)
    are_equal = all(one.is_equal for one in found)
    if are_equal and not names:
        whole = [one.entity for one in found if not one.unheld]
        with services.warehouse.connect() as connection:
            incomplete.settle(connection, whole)
    return 0 if are_equal else 1


def _stream(services: Services) -> int:
    """`python -m flows check --stream`: what the stream wrote against what the batch computed from raw, each
    day. 0 when all that the batch has computed is equal.
    """
    now = services.settings.now()
    with services.lake:
        results = reconcile(services, sealed_too=True)
        if away := keep_once(services):
            print(away)
    with services.warehouse.connect() as connection, connection.transaction():
        guard.record(connection, f"check-{now:%Y%m%dT%H%M%S}", results, now)
        gone = left_by_a_stream(connection)
    left = waiting(services, results)
    for line in (*lines(results), *gone):
        print(line)
    if left:
        print(f"{left} partitions wait for the batch, which computes them: python -m flows")
    elif not results and not gone:
        print("The stream has written nothing yet: there is nothing to compare.")
    is_unknown = left > 0 and not results
    return 1 if is_unknown or any(result.is_failure for result in results) else 0

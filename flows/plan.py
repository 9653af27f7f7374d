"""`python -m flows plan`: what a run would rebuild, and why. Looks at the ledger and at the sources; changes
nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any

from flows.build.states import planner_states
from flows.extract import SourceError
from flows.extract.waiting import waiting
from flows.planner import UNKNOWN, WHOLE, Due, Work
from flows.propagation import propagate
from flows.services import Services, open_services
from flows.stores.ledger import Ledger
from transforms import catalog, registry
from transforms.contract import Partition
from transforms.entities import SourceEntity

_ROWS_A_SECOND = 150_000
_SECONDS_A_TABLE = 0.3
"""What a table costs however few rows it has; both measured by `make bench` on two cores."""


@dataclass
class Arriving:
    """What waits at the sources: raw table → window → rows; the raw tables whose sources can't say it; a
    sentence for each that did not answer.
    """

    windows: dict[str, dict[str, int]] = field(default_factory=dict)
    not_asked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def command(arguments: argparse.Namespace) -> int:
    """Print the plan as text or JSON."""
    services = open_services()
    works: list[Work] = []
    with services.ledger() as ledger:
        if ledger.is_there():
            arriving = ask(services, ledger)
            order = registry.build_order()
            prints = {table.name: catalog.fingerprint(table) for table in order}
            states, now = planner_states(ledger), services.settings.now()
            works = propagate(order, registry.tables(), states, prints, arriving.windows, now)
        else:
            arriving = Arriving(
                notes=["Nothing was ever built here: the first run builds everything (python -m flows)."]
            )
    if arguments.json:
        print(json.dumps(document(works, arriving), indent=2))
    else:
        print("\n".join(lines(works, arriving)))
    return 0


def ask(services: Services, ledger: Ledger) -> Arriving:
    """Ask every source that can say it what waits there, side by side."""
    settings = services.settings
    entities = registry.entities()
    positions = {entity.table: ledger.positions(entity.table).positions for entity in entities}

    def of(entity: SourceEntity) -> dict[str, int] | SourceError | None:
        try:
            return waiting(entity, positions[entity.table], settings)
        except SourceError as error:
            return error

    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(of, entities))
    arriving = Arriving()
    for entity, answer in zip(entities, answers, strict=True):
        if answer is None:
            arriving.not_asked.append(entity.table)
        elif isinstance(answer, SourceError):
            arriving.notes.append(f"{entity.table}: {answer}")
        elif answer:
            arriving.windows[entity.table] = answer
    return arriving


def seconds(works: Sequence[Work]) -> float:
    """A rough estimate of how long the builds take."""
    rows = sum(item.rows for work in works for item in work.due)
    return round(len(works) * _SECONDS_A_TABLE + rows / _ROWS_A_SECOND, 1)


def document(works: Sequence[Work], arriving: Arriving) -> dict[str, Any]:
    """The plan as JSON values; "unknown" is the window of rows whose day only reading them tells."""
    return {
        "arriving": arriving.windows,
        "not_asked": arriving.not_asked,
        "rebuild": [
            {
                "table": work.table.name,
                "partitions": [
                    {"partition": item.partition, "mode": item.mode, "reason": item.reason, "rows": item.rows}
                    for item in work.due
                ],
                "seconds": seconds([work]),
            }
            for work in works
        ],
        "seconds": seconds(works),
        "notes": arriving.notes,
    }


def lines(works: Sequence[Work], arriving: Arriving) -> list[str]:
    """The plan for people: what waits, one line for each table and reason, what nobody could tell."""
    found = [
        f"{name}: about {sum(windows.values()):,} rows wait at the source"
        for name, windows in arriving.windows.items()
    ]
    if not works and not arriving.windows and not arriving.notes:
        where = " at the sources that can say it beforehand" if arriving.not_asked else ""
        found.append(f"Nothing is new{where}: a run would rebuild nothing{' for them' if where else ''}.")
    width = max((len(work.table.name) for work in works), default=0)
    found += [line for work in works for line in _lines_of(work, width)]
    if works:
        found.append(
            f"About {seconds(works)} s of building here. A rebuild that changes nothing stops there."
        )
    if arriving.not_asked:
        found.append(f"Only reading tells what is new in {_by_source(arriving.not_asked)}.")
    return [*found, *arriving.notes]


def _lines_of(work: Work, width: int) -> Iterator[str]:
    """A line for each reason of a table; what it costs however few rows it has is in the first one's time."""
    overhead = _SECONDS_A_TABLE
    for reason, group in groupby(sorted(work.due, key=attrgetter("reason")), attrgetter("reason")):
        due = list(group)
        rows = sum(item.rows for item in due)
        number = "?" if any(item.partition == UNKNOWN for item in due) else str(len(due))
        partitions = f"{number} {'partition' if number == '1' else 'partitions'}"
        yield (
            f"{work.table.name:<{width}}  {partitions:<14}  ~{rows:,} rows  "
            f"~{overhead + rows / _ROWS_A_SECOND:.1f} s  {named(due, work.table.partition)}  "
            f"because: {reason}"
        )
        overhead = 0.0


def named(due: Sequence[Due], partition: Partition | None) -> str:
    """Partitions for a person: `2025-10-05 … 2025-10-07, 2025-10-09`, those that follow each other as one."""
    spans: list[list[str]] = []
    for key in sorted(item.partition for item in due if item.partition not in {WHOLE, UNKNOWN}):
        is_next = (
            partition is not None
            and bool(spans)
            and partition.bounds(spans[-1][-1])[1] == partition.bounds(key)[0]
        )
        if is_next:
            spans[-1].append(key)
        else:
            spans.append([key])
    found = [span[0] if len(span) == 1 else f"{span[0]} … {span[-1]}" for span in spans]
    for item in due:
        if item.partition == WHOLE:
            found.insert(0, "all of it" if item.mode == "replace" else "what is new")
        if item.partition == UNKNOWN:
            found.append("of days that only reading tells")
    return ", ".join(found)


def _by_source(tables: Sequence[str]) -> str:
    """`stripe (charges, refunds)`, one for each source."""
    entities = [registry.entity(table) for table in tables]
    names: Mapping[str, list[str]] = {entity.source: [] for entity in entities}
    for entity in entities:
        names[entity.source].append(entity.name)
    return ", ".join(f"{source} ({', '.join(of)})" for source, of in names.items())

"""`python -m flows plan`: what a run would rebuild, and why. Looks at the ledger and at the sources; changes
nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flows.build.states import planner_states
from flows.extract import SourceError
from flows.extract.waiting import waiting
from flows.planner import WHOLE, Work
from flows.propagation import propagate
from flows.services import Services, open_services
from flows.stores.ledger import Ledger
from transforms import catalog, registry
from transforms.entities import SourceEntity

_ROWS_A_SECOND = 150_000
_SECONDS_A_TABLE = 0.3
"""What a table costs however few rows it has; both measured by `make bench` on two cores."""


def command(arguments: argparse.Namespace) -> int:
    """Print the plan as text or JSON."""
    services = open_services()
    works: list[Work] = []
    arriving: dict[str, dict[str, int]] = {}
    with services.ledger() as ledger:
        if ledger.is_there():
            arriving, notes = _arriving(services, ledger)
            order = registry.build_order()
            prints = {table.name: catalog.fingerprint(table) for table in order}
            states, now = planner_states(ledger), services.settings.now()
            works = propagate(order, registry.tables(), states, prints, arriving, now)
        else:
            notes = ["Nothing was ever built here: the first run builds everything (python -m flows)."]
    if arguments.json:
        print(json.dumps(_document(works, arriving, notes), indent=2))
    else:
        print("\n".join(_lines(works, arriving, notes)))
    return 0


def _arriving(services: Services, ledger: Ledger) -> tuple[dict[str, dict[str, int]], list[str]]:
    """What waits at the sources, raw table → window → rows, and a note for each source that could not be
    asked.
    """
    settings = services.settings
    entities = registry.entities()
    positions = {entity.table: ledger.positions(entity.table).positions for entity in entities}

    def ask(entity: SourceEntity) -> tuple[dict[str, int], str]:
        try:
            return waiting(entity, positions[entity.table], settings), ""
        except SourceError as error:
            return {}, f"{entity.table}: {error}"

    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(ask, entities))
    found = {entity.table: windows for entity, (windows, _) in zip(entities, answers, strict=True) if windows}
    return found, [note for _, note in answers if note]


def seconds(works: Sequence[Work]) -> float:
    """A rough estimate of how long the builds take."""
    rows = sum(item.rows for work in works for item in work.due)
    return round(len(works) * _SECONDS_A_TABLE + rows / _ROWS_A_SECOND, 1)


def _document(
    works: Sequence[Work], arriving: Mapping[str, Mapping[str, int]], notes: Sequence[str]
) -> dict[str, Any]:
    return {
        "arriving": {name: dict(windows) for name, windows in arriving.items()},
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
        "notes": list(notes),
    }


def _lines(
    works: Sequence[Work], arriving: Mapping[str, Mapping[str, int]], notes: Sequence[str]
) -> list[str]:
    lines = [
        f"{name}: about {sum(windows.values()):,} rows wait at the source"
        for name, windows in arriving.items()
    ]
    if not works and not arriving and not notes:
        lines.append("Nothing is new: a run would rebuild nothing.")
    width = max((len(work.table.name) for work in works), default=0)
    for work in works:
        keys = [item.partition for item in work.due]
        span = "all of it" if keys == [WHOLE] else (keys[0] if len(keys) == 1 else f"{keys[0]} … {keys[-1]}")
        rows = sum(item.rows for item in work.due)
        lines.append(
            f"{work.table.name:<{width}}  {len(keys):>4} {'partition' if len(keys) == 1 else 'partitions'}"
            f"  {span:<25}  ~{rows:,} rows  ~{seconds([work])} s  because: {work.due[0].reason}"
        )
    if works:
        lines.append(
            f"About {seconds(works)} s of building here. A rebuild that changes nothing stops there."
        )
    return [*lines, *notes]

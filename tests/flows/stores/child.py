"""One step of a story: publish and refresh."""

from __future__ import annotations

from pathlib import Path

from flows.stores import standalone, upkeep
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from tests.flows.stores.world import DAY, EVENTS, USERS, built, visits

PEOPLE = (
    "SELECT i AS person_id, 'n{}' || (i % {}) AS name, '{{\"a\": 1}}'::JSON AS properties "
    "FROM range(300) t(i)"
)
STORY = ("attach", "diff", "swap")


def play(dsn: str, root: Path, way: str) -> None:
    """One run, as a flow would do it: tidy up, build, publish, refresh."""
    warehouse = Warehouse(dsn)
    with Lake(root) as lake, warehouse.connect() as connection:
        ledger = Ledger(connection)
        lake.begin_session()
        ledger.repair_manifest(lake)
        standalone.sweep(connection)
        lake.sweep(ledger.named_paths)
        number = STORY.index(way)
        states = ledger.states()
        events, people = states.get((EVENTS.name, DAY)), states.get((USERS.name, ""))
        if (events.version if events else 0) == number:
            query = {
                "attach": visits(DAY, 400),
                "diff": f"SELECT * FROM ({visits(DAY, 405)}) WHERE visit_id > 2",
                "swap": visits(DAY, 300, mark="new "),
            }[way]
            day = built(lake, EVENTS, DAY, query, batch=f"e{number}", version=number)
            publish(
                EVENTS,
                [day],
                warehouse=warehouse,
                lake=lake,
                views=["mv_visits"],
                way="swap" if way == "swap" else None,
            )
        if (people.version if people else 0) == number:
            query = PEOPLE.format(number, 7 + number)
            publish(
                USERS,
                [built(lake, USERS, "", query, batch=f"p{number}", version=number)],
                warehouse=warehouse,
                lake=lake,
            )
        upkeep.refresh(warehouse)

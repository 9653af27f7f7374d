"""Two people in every store: what an erasure of the first has to find, and to leave of the second."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.conninfo import conninfo_to_dict

from flows import lakeshell
from flows.extract import kafka_records, repaired
from flows.landed import LANDED_ON, with_place
from flows.services import Services
from flows.stores.manifest import Commit
from tests.flows import kill_child
from tests.flows.extract.change_events import Topic, created, deleted, updated
from tests.flows.kill_child import Place
from tests.flows.landings import enter
from tests.flows.warehouses import NOW, Warehouses
from transforms import registry
from transforms.entities import SourceEntity

ADA, BOB, EVE = 1, 2, 3
"""Eve is gone from the application since; what was built of her lies in files that still count."""
ADAS = ("Ada@Example.com", "ada.old@example.com")
"""Her addresses: the present one, and one that she had before."""
ADAS_BEFORE = "ada.first@example.com"
"""One that only Stripe tells of, as what was before a change."""
SECRETS = (
    "ada@example.com", "ada.old@example.com", ADAS_BEFORE, "ada lovelace", "ada king", "ada byron",
    "10.0.0.7", "12 st james's square",
)  # fmt: skip
BOBS = "bob.ada@example.com"
EVES = "eve@example.net"
_AT = "2025-10-20T10:00:00Z"
_DAY = 1_760_954_400  # 2025-10-20 10:00 UTC
_NAMELESS = {
    "id": "cus_9", "email": None, "name": "Ada King", "created": _DAY, "metadata": {"user_id": str(ADA)}
}  # fmt: skip
"""A customer whom only its metadata call her: Stripe knows no address of it any more."""


def fill(place: Place) -> None:
    """Land, build and publish both of them."""
    services = kill_child.services(place)
    topics: dict[str, Topic] = {}
    with services.lake, kill_child.without_audit():
        for name, events in _told().items():
            topics[name] = Topic(registry.entity(name))
            _tell(services, topics[name], events, 0)
        for name, objects in _objects().items():
            entity = registry.entity(name)
            _enter_objects(services, entity, objects)
        enter(services, registry.entity("raw_events__page_views"), 0, _page_views())
        _letters(services)
        _quarantine(services)
        kill_child.build_all(services, replace(place, models=None), "first")
        _tell(services, topics["raw_app__users"], [deleted(EVE)], 1)
        kill_child.build_all(services, replace(place, models=None), "second")
        lakeshell.write(services.lake, registry.tables().values())


def _tell(services: Services, topic: Topic, events: list[Any], number: int) -> None:
    """Land the next events of a table."""
    for event in events:
        topic.send(event)
    topic.land()
    enter(services, topic.entity, number, topic.landed[number])


def one_more_address(services: Services, user: int, line: str) -> None:
    """Land an address of a user of whom nothing else is known."""
    _one_more(services, "addresses", _row("addresses", id=11, user_id=user, line1=line, city="York"), 1)


def one_more_account(services: Services, user: int, email: str) -> None:
    """Land a user who has signed up since."""
    _one_more(services, "users", _user(user, email=email, name="Ada Again"), 2)


def _one_more(services: Services, table: str, row: dict[str, Any], number: int) -> None:
    topic = Topic(registry.entity(f"raw_app__{table}"))
    topic.send(created(row))
    topic.land()
    enter(services, topic.entity, number, topic.landed[0])


def _enter_objects(services: Services, entity: SourceEntity, objects: list[Any]) -> None:
    """Land objects of an API."""
    told = [repaired.of_api(entity, json.dumps(one).encode(), NOW) for one in objects]
    batch = pa.Table.from_batches([one for one, _ in told]).combine_chunks().to_batches()[0]
    placed = pa.Table.from_batches([with_place(batch, "b0", NOW)])
    file = services.lake.write(
        "raw", entity.table, LANDED_ON, "2025-11-03", "b0", placed, measured="_landed_at"
    )
    windows = dict(Counter(window for _, window in told))
    commit = Commit(
        f"land-{entity.table}", "land", "raw", entity.table, add=(file,), windows=windows,
        row_count=file.rows, landed_at=NOW,
    )  # fmt: skip
    with services.ledger() as ledger:
        ledger.record(services.lake, commit, version=0)


def _told() -> dict[str, list[Any]]:
    """The application's tables, by their changes."""
    return {
        "raw_app__users": [
            created(_user(ADA, email=ADAS[1], name="Ada Lovelace", last_ip="10.0.0.7")),
            created(_user(BOB, email=BOBS, name="Bob Lovelace", last_ip="10.0.0.8")),
            created(_user(EVE, email=EVES, name="Eve", last_ip="10.0.0.9")),
            updated(_user(ADA, email=ADAS[0], name="Ada Lovelace", last_ip="10.0.0.7", plan="pro")),
        ],
        "raw_app__addresses": [
            created(_row("addresses", id=9, user_id=ADA, line1="12 St James's Square", city="London")),
            created(_row("addresses", id=10, user_id=BOB, line1="1 Main Street", city="Leeds")),
        ],
        "raw_app__orders": [
            created(
                _row(
                    "orders", id=f"00000000-0000-4000-8000-{user:012d}", user_id=user, product_id=1,
                    quantity=1, unit_price="2.00", discount_amount="0.00", total_amount="2.00",
                    currency="EUR", status="paid",
                )
            )
            for user in (ADA, BOB)
        ],
    }  # fmt: skip


def _user(user: int, **values: Any) -> dict[str, Any]:
    return _row("users", id=user, country="GB", **{"plan": "free", **values})


def _row(table: str, **values: Any) -> dict[str, Any]:
    times = {"created_at": _AT, "updated_at": _AT}
    columns = [column.name for column in registry.entity(f"raw_app__{table}").columns]
    return {column: values.get(column, times.get(column)) for column in columns}


def _objects() -> dict[str, list[Any]]:
    """What the APIs say of them."""
    return {
        "raw_stripe__customers": [
            {"id": f"cus_{user}", "email": email, "name": name, "created": _DAY,
             "address": {"country": "GB", "line1": line}, "metadata": {"user_id": str(user)}}
            for user, email, name, line in (
                (ADA, "ada@example.com", "Ada Lovelace", "12 St James's Square"),
                (BOB, BOBS, "Bob Lovelace", "1 Main Street"),
            )
        ]
        + [_NAMELESS],
        "raw_stripe__events": [
            {"id": "evt_1", "type": "customer.updated", "created": _DAY, "data": {
                "object": {"object": "customer", **_NAMELESS},
                "previous_attributes": {"email": ADAS_BEFORE, "name": "Ada Byron"},
            }}
        ],
        "raw_sendgrid__messages": [
            {"msg_id": f"m{number}", "from_email": "shop@example.org", "to_email": email,
             "subject": f"Dear {email}", "status": "delivered", "opens_count": 1, "clicks_count": 0,
             "last_event_time": _AT}
            for number, email in enumerate(("ada@example.com", BOBS))
        ],
    }  # fmt: skip


def _page_views() -> pa.Table:
    """Two views of pages, one with her address in its path."""
    values = [
        {"event_id": f"00000000-0000-4000-8000-{number:012d}", "event_time": _AT, "user_id": user,
         "session_id": "s", "path": path}
        for number, (user, path) in enumerate([(ADA, "/verify?mail=ADA@example.com"), (BOB, "/home")])
    ]  # fmt: skip
    count = len(values)
    rows = pa.record_batch(
        [
            pa.array(["page_views"] * count),
            pa.array([0] * count, pa.int32()),
            pa.array(range(count), pa.int64()),
            pa.array([NOW] * count, kafka_records.SCHEMA.field("kafka_timestamp").type),
            pa.nulls(count, pa.binary()),
            pa.nulls(count, kafka_records.SCHEMA.field("headers").type),
            pa.array([json.dumps(value).encode() for value in values], pa.binary()),
        ],
        schema=kafka_records.SCHEMA,
    )
    return pa.Table.from_batches([with_place(rows, "b0", NOW)])


def _letters(services: Services) -> None:
    """Letters that name her, that are of her by id, and that are of him; a check that quotes her."""
    payloads = [b"\xff not JSON: ada@EXAMPLE.com", b'{"user_id": 1, "broken', b'{"user_id": 12, "broken']
    with services.warehouse.connect() as connection:
        for number, payload in enumerate(payloads):
            connection.execute(
                "insert into ops.dead_letter (letter_id, source, entity, reason, payload, received_at) "
                "values (%s, 'events', 'clicks', 'it is not valid JSON', %s, %s)",
                (f"letter{number}", payload, NOW),
            )
        connection.execute(
            "insert into ops.check_result values ('r', 'dim_users', '', 'rule', 'accuracy', 'warning', "
            "'duckdb', false, 1, %s, %s)",
            (json.dumps({"examples": ["ada@example.com"]}), NOW),
        )


def _quarantine(services: Services) -> None:
    folder = services.lake.root / "quarantine" / "dim_users"
    folder.mkdir(parents=True)
    rows = pa.table({"user_id": [ADA, BOB], "email": ["Ada@Example.com", BOBS], "_reason": ["r", "r"]})
    pq.write_table(rows, folder / "b0.parquet")


@dataclass(frozen=True)
class Filled:
    """A warehouse and a lake with both of them, to be copied."""

    warehouses: Warehouses
    place: Place

    @classmethod
    def build(cls, warehouses: Warehouses) -> Filled:
        """Make it once."""
        filled = cls(warehouses, warehouses.place())
        fill(filled.place)
        return filled

    def copy(self) -> Place:
        """One of its own for a test."""
        database = str(conninfo_to_dict(self.place.warehouse_dsn)["dbname"])
        dsn = self.warehouses.server.empty(database)
        lake = f"{self.place.lake}-{conninfo_to_dict(dsn)['dbname']}"
        shutil.copytree(self.place.lake, lake)
        return replace(self.place, warehouse_dsn=dsn, lake=lake)


def with_backups(place: Place, folder: str = "") -> Services:
    """Its services, with a folder for backups: its own, or another one."""
    settings = kill_child.services(place).settings
    return Services(settings.model_copy(update={"backups": Path(folder or f"{place.lake}-backups")}))


def bytes_of(place: Place) -> str:
    """All that the lake's files say, decoded, in lower case."""
    found = []
    for path in Path(place.lake).rglob("*"):
        if path.suffix == ".parquet":
            for column in pq.read_table(path).columns:
                kind = column.type
                storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
                if pa.types.is_binary(storage) or pa.types.is_string(storage) or pa.types.is_list(storage):
                    found.append(str(column.to_pylist()))
        elif path.is_file():
            found.append(path.read_text(errors="replace"))
    return "\n".join(found).lower()


def rows(place: Place, query: str) -> list[tuple[Any, ...]]:
    """Rows of the warehouse."""
    with psycopg.connect(place.warehouse_dsn, autocommit=True) as connection:
        connection.execute("set timezone = 'UTC'")
        return connection.execute(query.encode()).fetchall()

"""Tables that look up rows of another one: a change there reaches every row that finds it or has found it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from unittest import mock

import psycopg
import pyarrow as pa
import pytest
from duckdb import DuckDBPyConnection
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.build import compaction, content
from flows.extract import rest
from flows.landed import with_place
from flows.services import Services
from flows.stores.manifest import LakeFile
from tests.flows import kill_child
from tests.flows.extract.change_events import Topic, created, deleted, updated
from tests.flows.kill_child import Place
from tests.flows.landings import enter
from tests.flows.test_by_key import ANY_CUT
from tests.flows.warehouses import NOW, Warehouses
from transforms import registry
from transforms.contract import Table
from transforms.entities import Postgres

EMAILS, MESSAGES = "fct_emails", registry.entity("raw_sendgrid__messages")
MODELS = ("stg_app__users", "stg_sendgrid__messages", "dim_users", EMAILS)
_USERS = registry.entity("raw_app__users")
assert isinstance(_USERS.read, Postgres)
USERS = replace(_USERS, read=replace(_USERS.read, mode="cdc", cursor=None))
ADDRESSES = ("a@example.test", "b@example.test", "c@example.test")


@dataclass(frozen=True)
class Step:
    """What happens next: a user gets an address (`put`, in capitals) or is deleted, an e-mail is seen at an
    address (`mail`). `is_cut`: what was done so far is landed and built first.
    """

    what: str
    key: int
    address: str
    is_cut: bool = False


STEPS = st.lists(
    st.builds(
        Step,
        what=st.sampled_from(["put", "put", "delete", "mail", "mail"]),
        key=st.integers(1, 3),
        address=st.sampled_from(ADDRESSES),
        is_cut=st.booleans(),
    ),
    min_size=4,
    max_size=12,
)


@dataclass
class World:
    """Users told by changes, e-mails by reads; `addresses` and `sent` are what is true of them."""

    topic: Topic = field(default_factory=lambda: Topic(USERS))
    addresses: dict[int, str] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    landings: dict[str, int] = field(default_factory=lambda: {"users": 0, "messages": 0})
    told: int = 0

    def do(self, step: Step) -> None:
        """One change; deleting who is not there is none."""
        if step.what == "mail":
            self.sent[f"m{step.key}"] = step.address
            self.seen.append((f"m{step.key}", step.address))
        elif step.what == "put":
            times = {"created_at": "2025-09-01T00:00:00Z", "updated_at": "2025-09-01T00:00:00Z"}
            row: dict[str, object] = {c.name: times.get(c.name) for c in USERS.columns}
            row |= {"id": step.key, "email": step.address.upper(), "plan": "free"}
            self.topic.send(updated(row) if step.key in self.addresses else created(row))
            self.addresses[step.key] = step.address
        elif self.addresses.pop(step.key, None):
            self.topic.send(deleted(step.key))

    def land(self, services: Services) -> None:
        """Land what was not landed yet."""
        if len(self.topic.records) > self.told:
            self.topic.land()
            self.told = len(self.topic.records)
        for number in range(self.landings["users"], len(self.topic.landed)):
            enter(services, USERS, number, self.topic.landed[number])
        self.landings["users"] = len(self.topic.landed)
        if self.seen:
            number = self.landings["messages"]
            enter(services, MESSAGES, number, _landed(self.seen, number))
            self.landings["messages"] += 1
            self.seen = []

    @property
    def expected(self) -> list[tuple[str, int | None]]:
        """(message, user) as they are to stand: of several users with an address the oldest."""
        holders = {address: key for key, address in sorted(self.addresses.items(), reverse=True)}
        return sorted((message, holders.get(address)) for message, address in self.sent.items())


def _landed(seen: Sequence[tuple[str, str]], number: int) -> pa.Table:
    at = NOW + timedelta(minutes=number)
    objects = [
        json.dumps(
            {"msg_id": message, "to_email": address, "status": "delivered", "opens_count": 0,
             "clicks_count": 0, "last_event_time": (at + timedelta(seconds=place)).isoformat()}
        )
        for place, (message, address) in enumerate(seen)
    ]  # fmt: skip
    columns = [[message for message, _ in seen], objects, [at] * len(seen), [at] * len(seen)]
    rows = pa.record_batch(
        [pa.array(values, of.type) for values, of in zip(columns, rest.SCHEMA, strict=True)],
        schema=rest.SCHEMA,
    )
    return pa.Table.from_batches([with_place(rows, f"b{number}", at)])


@pytest.fixture
def place(warehouses: Warehouses) -> Iterator[Place]:
    with warehouses.lent(*MODELS) as place:
        yield place


def _published(place: Place) -> list[tuple[str, int | None]]:
    with psycopg.connect(place.warehouse_dsn) as connection:
        return connection.execute(
            "select message_id, user_id from analytics.fct_emails order by 1"
        ).fetchall()


def _any_cut(warehouses: Warehouses, steps: Sequence[Step]) -> None:
    with warehouses.lent(*MODELS) as place:
        services, world = kill_child.services(place), World()
        with services.lake, mock.patch.multiple(compaction, MAX_FILES=2, GONE_ROWS=0):
            for number, step in enumerate(steps):
                if step.is_cut:
                    world.land(services)
                    kill_child.build_all(services, place, f"run-{number}")
                    assert _published(place) == world.expected
                world.do(step)
            world.land(services)
            kill_child.build_all(services, place, "last")
            assert _published(place) == world.expected
            assert kill_child.rebuilt(services, EMAILS) == []
            assert _published(place) == world.expected


@settings(ANY_CUT, max_examples=1)
@given(steps=STEPS)
def test_any_cut_of_any_changes_finds_whom_one_rebuild_finds(
    warehouses: Warehouses, steps: list[Step]
) -> None:
    _any_cut(warehouses, steps)


@pytest.mark.full
@settings(ANY_CUT, max_examples=12)
@given(steps=STEPS)
def test_many_cuts_of_any_changes_find_whom_one_rebuild_finds(
    warehouses: Warehouses, steps: list[Step]
) -> None:
    _any_cut(warehouses, steps)


def test_who_takes_an_address_over_gets_its_mails_and_who_leaves_it_loses_them(
    warehouses: Warehouses,
) -> None:
    a, b, c = ADDRESSES
    _any_cut(
        warehouses,
        [
            Step("mail", 1, a),
            Step("mail", 2, b),
            Step("put", 2, a, is_cut=True),
            Step("put", 3, b, is_cut=True),
            Step("put", 1, a, is_cut=True),
            Step("put", 1, c, is_cut=True),
            Step("put", 3, a, is_cut=True),
            Step("delete", 2, a, is_cut=True),
            Step("mail", 1, c, is_cut=True),
            Step("delete", 1, c, is_cut=True),
        ],
    )


def test_only_the_mails_of_an_address_that_changed_hands_are_computed(place: Place) -> None:
    services, world = kill_child.services(place), World()
    a, b, _ = ADDRESSES
    computed: list[int] = []
    write = content.write

    def noted(table: Table, connection: DuckDBPyConnection, *given: Any, **more: Any) -> LakeFile:
        if table.name == EMAILS:
            computed.extend(content.partitions(connection).values())
        return write(table, connection, *given, **more)

    with services.lake:
        for step in (Step("mail", 1, a), Step("mail", 2, b), Step("mail", 3, b), Step("put", 1, b)):
            world.do(step)
        world.land(services)
        kill_child.build_all(services, place, "first")
        world.do(Step("put", 1, a))
        world.land(services)
        with mock.patch.object(content, "write", noted):
            kill_child.build_all(services, place, "second")
        assert _published(place) == world.expected == [("m1", 1), ("m2", None), ("m3", None)]
        assert computed == [3]
        computed.clear()
        world.do(Step("put", 2, "nobody@example.test"))
        world.do(Step("mail", 3, a))
        world.land(services)
        with mock.patch.object(content, "write", noted):
            kill_child.build_all(services, place, "third")
        assert _published(place) == world.expected
        assert computed == [1]

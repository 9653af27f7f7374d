"""Lists of erased people are united: whoever one of them knows by an address stays known by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection

from flows.erasure import listed
from flows.erasure.person import Person
from flows.errors import FlowsError
from flows.stores.lake import Lake
from flows.stores.warehouse import Warehouse
from tests.house import Server

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
OLD, NEW = "ada.old@example.com", "ada@example.com"
EARLIER = Person.new(1).with_emails([OLD])
LATER = [
    pytest.param(EARLIER.with_emails([NEW]), id="erased once more"),
    pytest.param(Person.new(1).with_emails([NEW]), id="erased anew, by a salt of its own"),
]


@pytest.fixture(scope="module")
def dsn(postgres18: Server) -> str:
    return postgres18.database()


@pytest.fixture
def connection(dsn: str) -> Iterator[Connection[Any]]:
    """A warehouse from which she was erased while it knew one address of hers."""
    with Warehouse(dsn).connect() as there:
        there.execute("delete from ops.erasure")
        there.execute(
            "insert into ops.erasure (user_id, alias, salt, email_hashes, asked_at, finished_at) "
            "values (1, %s, %s, %s, %s, %s)",
            (EARLIER.alias, EARLIER.salt, list(EARLIER.email_hashes), NOW, NOW),
        )
        yield there


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def written(folder: Path, *people: Person, finished: bool = True) -> Path:
    """A folder with a list of them."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        {
            "user_id": person.user_id,
            "alias": person.alias,
            "salt": person.salt,
            "email_hashes": sorted(person.email_hashes),
            "reason": "",
            "asked_at": NOW.isoformat(),
            "finished_at": NOW.isoformat() if finished else None,
        }
        for person in people
    ]
    (folder / listed.FILE).write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return folder


def in_list(folder: Path) -> tuple[Person, bool]:
    """The one person of a folder's list, and whether they are finished there."""
    (line,) = (folder / listed.FILE).read_text().splitlines()
    entry = json.loads(line)
    person = Person(entry["user_id"], entry["alias"], entry["salt"], frozenset(entry["email_hashes"]))
    return person, entry["finished_at"] is not None


def known_as(person: Person) -> list[str]:
    return [address for address in (OLD, NEW, "bob@example.com") if person.has(address)]


@pytest.mark.parametrize("later", LATER)
def test_a_list_that_another_is_brought_to_knows_the_addresses_of_both(tmp_path: Path, later: Person) -> None:
    there, other = written(tmp_path / "there", EARLIER), written(tmp_path / "other", later)
    listed.bring(other, there)
    person, is_finished = in_list(there)
    assert (known_as(person), person.alias, is_finished) == ([OLD, NEW], EARLIER.alias, False)
    whole = (there / listed.FILE).read_bytes()
    listed.bring(other, there)
    listed.bring(written(tmp_path / "older", EARLIER), there)
    assert (there / listed.FILE).read_bytes() == whole


def test_somebody_is_still_finished_in_a_list_to_which_nothing_new_of_them_is_brought(tmp_path: Path) -> None:
    there, other = written(tmp_path / "there", EARLIER), written(tmp_path / "other", EARLIER, finished=False)
    listed.bring(other, there)
    assert in_list(there)[1]


@pytest.mark.parametrize("later", LATER)
def test_a_warehouse_from_before_takes_over_addresses_of_people_whom_it_knows(
    connection: Connection[Any], lake: Lake, later: Person
) -> None:
    written(lake.root, later)
    assert listed.take_over(connection, lake) == [1]
    (person,) = listed.people(connection)
    assert (known_as(person), person.alias) == ([OLD, NEW], EARLIER.alias)
    unfinished = "select user_id from ops.erasure where finished_at is null"
    assert connection.execute(unfinished).fetchall() == [(1,)]
    connection.execute("update ops.erasure set finished_at = now()")
    listed.take_over(connection, lake)
    assert connection.execute(unfinished).fetchall() == []


@pytest.mark.parametrize("later", LATER)
def test_a_list_that_is_written_anew_keeps_addresses_that_only_the_lake_knew(
    connection: Connection[Any], lake: Lake, later: Person
) -> None:
    written(lake.root, later)
    listed.write(connection, lake)
    person, is_finished = in_list(lake.root)
    assert (known_as(person), is_finished) == ([OLD, NEW], False)


def test_whoever_is_erased_again_is_the_person_whom_the_lake_knows(
    connection: Connection[Any], lake: Lake
) -> None:
    connection.execute("delete from ops.erasure")
    written(lake.root, EARLIER)
    assert listed.known(connection, lake) == {1: Person(1, EARLIER.alias, EARLIER.salt, EARLIER.email_hashes)}


@pytest.mark.parametrize("later", LATER)
def test_a_backup_still_has_somebody_of_whom_more_is_known_than_was_looked_for(
    tmp_path: Path, later: Person
) -> None:
    backup, lake, none = written(tmp_path / "backup", EARLIER), written(tmp_path / "lake", later), tmp_path
    assert listed.still_in(backup, lake, none) == [1]
    assert listed.still_in(backup, written(lake, EARLIER), none) == []
    assert listed.still_in(None, none, lake) == [1]
    assert listed.still_in(written(backup, EARLIER, finished=False), none) == [1]


def test_an_address_that_only_another_salt_knows_is_found_and_replaced_as_any_other() -> None:
    both = EARLIER.united(Person.new(1).with_emails([NEW]))
    assert both.is_named_in(f"to {NEW} and others")
    assert not both.is_known
    assert both.with_emails([NEW, OLD]).is_known
    assert EARLIER.united(both) == EARLIER.united(EARLIER.united(both)) == both.united(EARLIER)


@pytest.mark.parametrize("line", ["{", "[1]", '{"user_id": 1}', '{"user_id": "x", "email_hashes": 3}'])
def test_a_list_that_is_damaged_is_told_in_one_sentence(tmp_path: Path, line: str) -> None:
    (tmp_path / listed.FILE).write_text(f"{line}\n")
    with pytest.raises(FlowsError, match=r"_erasures\.jsonl is damaged, so who was erased can't be told"):
        listed.still_in(None, tmp_path)

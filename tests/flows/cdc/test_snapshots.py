"""What the records of a topic tell of the connector's first read of its table."""

from __future__ import annotations

import pytest

from flows.cdc.snapshots import FirstRead, Mark, are_whole


def told(*batches: list[Mark], since: int | None = 100) -> FirstRead:
    first_read = FirstRead(since)
    for marks in batches:
        first_read.note(marks)
    return first_read


BEGIN, ROWS, END = ("first_in_data_collection", 100, 1), ("true", 100, 8), ("last", 100, 1)
LOG = ("false", -1, 5)


def test_a_first_read_is_whole_with_its_last_record() -> None:
    assert not told([BEGIN, ROWS]).is_whole
    assert told([BEGIN, ROWS], [END]).is_whole
    assert told([BEGIN], [ROWS, ("last_in_data_collection", 100, 1)], [LOG]).is_whole
    assert told([END]).is_whole, "a table of one row"


def test_the_end_of_another_registration_s_read_ends_nothing() -> None:
    assert not told([("first", 90, 1), ("last", 90, 1)]).is_whole
    assert not told([BEGIN, END], since=None).is_whole
    assert not told([("incremental", 200, 3)]).is_whole


def test_a_read_that_begins_again_is_not_whole_until_it_ends_again() -> None:
    again = told([BEGIN, ROWS, END], [("first", 120, 1), ("true", 120, 3)])
    assert not again.is_whole
    again.note([("last", 120, 1)])
    assert again.is_whole


def test_tables_are_whole_together_by_one_reading() -> None:
    one, other = told([BEGIN, END]), told([("first", 120, 1), ("last", 120, 1)])
    assert are_whole([one, told([END])])
    assert not are_whole([one, other])
    assert not are_whole([one, told()])


@pytest.mark.parametrize(
    ("batches", "is_all"),
    [
        ([[BEGIN, ROWS, END]], True),
        ([[BEGIN], [ROWS], [END], [LOG]], True),
        ([[END]], True),
        ([[BEGIN, ROWS]], False),
        # Who has read twice has not told of what went in between; nor has what was there before.
        ([[BEGIN, ROWS], [BEGIN, ROWS, END]], False),
        ([[BEGIN, ROWS, END], [("first", 120, 1), ("last", 120, 1)]], False),
        ([[END], [END]], False),
        ([[LOG], [BEGIN, ROWS, END]], False),
        ([[("true", 90, 3)], [BEGIN, ROWS, END]], False),
    ],
)
def test_all_was_told_only_by_one_reading_from_the_topic_s_beginning(
    batches: list[list[Mark]], is_all: bool
) -> None:
    assert told(*batches).is_all is is_all

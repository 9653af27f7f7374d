"""Whatever happens at the source, however it is cut into landings: the same rows, the same history."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.flows.extract.change_events import (
    Topic,
    created,
    deleted,
    moved,
    row,
    tombstone,
    truncated,
    unsent,
    updated,
)

KEYS = st.integers(1, 4)
ACTIONS = st.one_of(
    st.tuples(st.just("put"), KEYS, st.integers(0, 99)),
    st.tuples(st.just("name"), KEYS, st.integers(0, 99)),
    st.tuples(st.just("delete"), KEYS, st.just(0)),
    st.tuples(st.just("move"), KEYS, KEYS),
    st.tuples(st.just("truncate"), st.just(0), st.just(0)),
    st.tuples(st.just("land"), st.just(0), st.just(0)),
    st.tuples(st.just("again"), st.integers(1, 4), st.just(0)),
)


class Source:
    """The few lines that say what the rows are: key → its row."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}

    def do(self, topic: Topic, action: str, key: int, number: int) -> None:
        """Change the rows, and send what Debezium would; what can't be done is left out."""
        there = self.rows.get(key)
        if action == "put":
            at = f"2025-{1 + number % 3:02}-05T00:00:00Z"
            self.rows[key] = row(key, name=f"n{number}", tags=[f"t{number}"], created_at=at)
            topic.send((updated if there else created)(self.rows[key]))
        elif action == "name" and there:
            there["name"] = f"n{number}"
            topic.send(updated(unsent(there, "tags", "image")))
        elif action == "delete" and there:
            topic.send(deleted(key), tombstone(key))
            del self.rows[key]
        elif action == "move" and there and number not in self.rows:
            self.rows[number] = {**self.rows.pop(key), "id": number}
            topic.send(*moved(key, unsent(self.rows[number], "tags")))
        elif action == "truncate":
            self.rows.clear()
            topic.send(truncated())

    def live(self) -> list[tuple[Any, ...]]:
        return sorted((key, there["name"], there["tags"]) for key, there in self.rows.items())

    def in_windows(self) -> list[tuple[str, int]]:
        return sorted((there["created_at"][:7], key) for key, there in self.rows.items())


@settings(max_examples=40, derandomize=True)
@given(st.lists(ACTIONS, min_size=1, max_size=25))
def test_any_sequence_of_changes_ends_equal_to_the_source(actions: list[tuple[str, int, int]]) -> None:
    topic, source, landed = Topic(), Source(), 0
    for action, key, number in actions:
        if action == "land":
            topic.land()
            landed = len(topic.records)
        elif action == "again":
            # A connector that was killed sends again what came after a point that it had noted.
            topic.send_again(max(0, len(topic.records) - key))
        else:
            source.do(topic, action, key, number)
    topic.land()
    assert landed <= len(topic.records)
    assert topic.problems == []
    assert (topic.live("id, name, tags") if topic.landed else []) == source.live()
    assert (topic.in_windows() if topic.landed else []) == source.in_windows()


@settings(max_examples=15, derandomize=True)
@given(st.lists(ACTIONS, min_size=1, max_size=20), st.data())
def test_changes_cut_and_sent_again_in_any_way_are_the_same_versions(
    actions: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    whole, source = Topic(), Source()
    for action, key, number in actions:
        source.do(whole, action, key, number)
    cut = Topic(records=[])
    for position in range(len(whole.records)):
        cut.records.append({**whole.records[position], "kafka_offset": len(cut.records)})
        if data.draw(st.integers(0, 5)) == 0:
            cut.send_again(data.draw(st.integers(0, len(cut.records) - 1)))
        if data.draw(st.integers(0, 3)) == 0:
            cut.land()
    whole.land()
    cut.land()
    query = "select id, name, tags, created_at, _op, _changed_at, _lsn from raw order by all"
    assert (cut.rows(query) if cut.landed else []) == (whole.rows(query) if whole.landed else [])

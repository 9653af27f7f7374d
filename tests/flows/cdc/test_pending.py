"""What is handed on of change topics: whole transactions in the order of their commits, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cdc import pending, reach
from flows.cdc.pending import Cut, Pending
from flows.cdc.reach import Reach
from flows.extract import kafka_records
from transforms import engine

NOON = datetime(2025, 10, 7, 12, tzinfo=UTC)
TOPICS = ("orders", "payments", "users")
ENDS = "transaction"


@dataclass
class Log:
    """Topics as Debezium fills them, and what was read of them so far."""

    topics: dict[str, list[bytes | None]] = field(default_factory=lambda: {n: [] for n in (*TOPICS, ENDS)})
    whose: dict[str, list[int | None]] = field(default_factory=lambda: {name: [] for name in TOPICS})
    commits: list[int] = field(default_factory=list)
    sent_at: datetime | None = NOON
    told: dict[str, int | None] = field(default_factory=dict)
    """Topic → its end as the broker tells it, where that is not what was read; None: it does not answer."""

    def change(self, topic: str, transaction: int | None) -> None:
        """A change of a transaction; None: a row of a snapshot."""
        source = {"txId": transaction or 1, "snapshot": "false" if transaction else "true"}
        self.topics[topic].append(json.dumps({"op": "u", "source": source}).encode())
        self.whose[topic].append(transaction)

    def commit(self, transaction: int, *changed: str) -> None:
        """All changes of a transaction, and its end."""
        for topic in changed:
            self.change(topic, transaction)
        counts = [
            {"data_collection": f"public.{name}", "event_count": changed.count(name)} for name in set(changed)
        ]
        end = {"status": "END", "id": f"{transaction}:99", "data_collections": counts}
        self.topics[ENDS].append(json.dumps(end).encode())
        self.commits.append(transaction)

    def read(self, **upto: int) -> tuple[Pending, dict[str, Reach], Reach]:
        """All records before these offsets; a topic that is not named is read to its end."""
        held = Pending(engine.connect(threads=1))
        reaches = {name: self.reach(name, **upto) for name in TOPICS}
        ends = self.reach(ENDS, **upto)
        for name in TOPICS:
            held.keep(self.batch(name, reaches[name].position))
        held.note_ends(self.batch(ENDS, ends.position), {f"public.{name}": (name, 0) for name in TOPICS})
        return held, reaches, ends

    def reach(self, name: str, **upto: int) -> Reach:
        """A topic that was read before its offset there, or to its end."""
        end = len(self.topics[name])
        position = min(upto.get(name, end), end)
        reached = Reach(0, end, lambda: self.told.get(name, end))
        reached.note(position, is_end=position == end)
        return reached

    def batch(self, name: str, upto: int, first: int = 0) -> pa.RecordBatch:
        """The records of a topic between these offsets."""
        rows: list[dict[str, object]] = [
            {
                "topic": name,
                "kafka_partition": 0,
                "kafka_offset": offset,
                "kafka_timestamp": self.sent_at,
                "key": None,
                "headers": [],
                "value": value,
            }
            for offset, value in enumerate(self.topics[name][first:upto], first)
        ]
        return pa.RecordBatch.from_pylist(rows, kafka_records.SCHEMA)

    def handed_on(self, cut: Cut | None) -> set[int]:
        """The transactions with a record before the cut."""
        after = cut.after if cut else {}
        return {tx for name, upto in after.items() for tx in self.whose[name][:upto] if tx is not None}


def test_a_transaction_waits_until_all_of_it_is_there() -> None:
    log = Log()
    log.commit(7, "orders", "payments", "payments")
    for upto in (0, 1):
        held, reaches, ends = log.read(payments=upto)
        assert held.cut(reaches, ends) is None
    held, reaches, ends = log.read()
    cut = held.cut(reaches, ends)
    assert cut is not None
    assert (cut.after, cut.rows, cut.incomplete) == ({"orders": 1, "payments": 2}, 3, ())


def test_records_of_which_nobody_knows_when_they_were_sent_are_handed_on_with_the_others() -> None:
    log = Log(sent_at=None)
    log.commit(7, "orders", "payments")
    held, reaches, ends = log.read()
    cut = held.cut(reaches, ends)
    assert cut is not None
    assert (cut.after, cut.rows, cut.oldest) == ({"orders": 1, "payments": 1}, 2, None)

    log.sent_at = NOON
    held, reaches, ends = log.read()
    assert held.oldest({"orders": 1}) == NOON.timestamp()


def test_nothing_overtakes_a_transaction_that_waits() -> None:
    log = Log()
    log.commit(7, "orders", "payments")
    log.commit(8, "orders")
    log.commit(9, "users")
    held, reaches, ends = log.read(payments=0)
    assert held.cut(reaches, ends) is None


def test_changes_whose_transaction_has_not_ended_wait() -> None:
    log = Log()
    log.commit(7, "orders")
    log.change("orders", 8)
    held, reaches, ends = log.read()
    cut = held.cut(reaches, ends)
    assert cut is not None
    assert cut.after == {"orders": 1}


def test_a_snapshots_rows_wait_for_no_transaction() -> None:
    log = Log()
    log.change("users", None)
    log.change("orders", None)
    log.change("orders", 8)
    held, reaches, ends = log.read()
    cut = held.cut(reaches, ends)
    assert cut is not None
    assert cut.after == {"users": 1, "orders": 1}


@pytest.mark.parametrize(
    ("missing", "reason"), [("payments", "a change of it did not come"), (ENDS, "its end did not come")]
)
def test_what_never_comes_is_waited_for_a_while_and_named(
    monkeypatch: pytest.MonkeyPatch, missing: str, reason: str
) -> None:
    log = Log()
    log.commit(7, "orders", "payments")
    log.commit(8, "orders")
    del log.topics[missing][0]
    if missing in log.whose:
        del log.whose[missing][0]
    held, reaches, ends = log.read()
    assert held.cut(reaches, ends) is None
    monkeypatch.setattr(pending, "STALL_SECONDS", -1.0)
    cut = held.cut(reaches, ends)
    assert cut is not None
    assert log.handed_on(cut) == {7, 8}
    assert [(one.transaction, one.reason) for one in cut.incomplete] == [(7, reason)]


def test_nobody_gives_up_while_a_topic_has_more_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "STALL_SECONDS", -1.0)
    log = Log()
    log.commit(7, "orders", "payments")
    held, reaches, ends = log.read(payments=0)
    assert held.cut(reaches, ends) is None


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        for module in (pending, reach):
            monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        """The time now."""
        return self.now

    def reasons(
        self, held: Pending, reaches: dict[str, Reach], ends: Reach, seconds: int
    ) -> dict[int, list[str]]:
        """Look each second for what can be handed on: seconds that have passed → why, of what is given up."""
        found = {}
        for second in range(1, seconds + 1):
            self.now += 1
            if cut := held.cut(reaches, ends):
                found[second] = [one.reason for one in cut.incomplete]
        return found


@pytest.mark.parametrize(
    ("missing", "reason"), [("payments", "a change of it did not come"), (ENDS, "its end did not come")]
)
def test_a_broker_that_is_away_has_nobody_give_up_until_it_has_answered_for_a_while(
    monkeypatch: pytest.MonkeyPatch, missing: str, reason: str
) -> None:
    """Who fills the topics was as far from it, and brings the rest a while after it is back."""
    clock, log = Clock(monkeypatch), Log()
    log.commit(7, "orders", "payments")
    del log.topics[missing][0]
    held, reaches, ends = log.read()
    log.told[missing] = None
    assert clock.reasons(held, reaches, ends, seconds=60) == {}
    del log.told[missing]
    found = clock.reasons(held, reaches, ends, seconds=15)
    assert {*found} == {*range(11, 16)}
    assert {*map(tuple, found.values())} == {(reason,)}


@pytest.mark.parametrize("missing", ["payments", ENDS])
def test_nobody_gives_up_while_the_broker_has_more_than_it_has_delivered(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    clock, log = Clock(monkeypatch), Log()
    log.commit(7, "orders", "payments")
    held, reaches, ends = log.read(**{missing: 0})
    for silent in (*reaches.values(), ends):
        silent.note(silent.position, is_end=True)  # what it delivered last, before it went away
    assert clock.reasons(held, reaches, ends, seconds=60) == {}


def test_a_topic_that_never_rests_has_nothing_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it is asked there is more: what counts is that the end of some moment is reached later."""
    clock, log = Clock(monkeypatch), Log()
    log.commit(7, "orders", "payments")
    del log.topics["payments"][0]
    held, reaches, ends = log.read()
    found = {}
    for second in range(1, 30):
        log.told["payments"] = 3 * second
        found[second] = clock.reasons(held, reaches, ends, seconds=1)
        reaches["payments"].note(3 * second, is_end=second % 3 == 0)
    assert next(second for second, given_up in found.items() if given_up) in range(10, 20)


def test_the_broker_is_asked_only_while_something_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(monkeypatch), Log()
    asked: list[str] = []
    log.commit(7, "orders", "payments")
    held, reaches, ends = log.read()
    for name, one in (*reaches.items(), (ENDS, ends)):
        monkeypatch.setattr(one, "ask", lambda name=name: asked.append(name))
    clock.now += 60
    assert held.cut(reaches, ends)
    assert asked == []
    log.change("orders", 8)
    held, reaches, ends = log.read(payments=0)
    for name, one in (*reaches.items(), (ENDS, ends)):
        one.note(one.position, is_end=True)
        monkeypatch.setattr(one, "ask", lambda name=name: asked.append(name))
    assert held.cut(reaches, ends) is None
    assert asked == []
    clock.now += 5
    assert held.cut(reaches, ends) is None
    assert asked == ["payments"], "the one that did not answer is the last one asked"


def test_what_was_handed_on_is_forgotten_and_the_rest_stays() -> None:
    log = Log()
    log.commit(7, "orders", "users")
    log.change("orders", 8)
    held, reaches, ends = log.read()
    cut = held.cut(reaches, ends)
    assert cut is not None
    (batch,) = held.records("orders", cut.after["orders"])
    assert batch.schema == kafka_records.SCHEMA
    assert batch.column("kafka_offset").to_pylist() == [0]
    held.forget(cut.after, cut.transactions)
    assert len(held) == 1
    assert held.cut(reaches, ends) is None


_changed = st.lists(st.sampled_from(TOPICS), min_size=1, max_size=4)


@pytest.mark.full
@settings(max_examples=60)
@given(st.lists(_changed, max_size=8), st.data())
def test_whatever_was_read_the_longest_run_of_whole_transactions_is_handed_on(
    transactions: Sequence[Sequence[str]], data: Any
) -> None:
    log = Log()
    for number, changed in enumerate(transactions, 1):
        log.commit(number, *changed)
    upto = {name: data.draw(st.integers(0, len(log.topics[name]))) for name in (*TOPICS, ENDS)}
    held, reaches, ends = log.read(**upto)
    whole = set()
    for number in log.commits[: upto[ENDS]]:
        if any(number in log.whose[name][upto[name] :] for name in TOPICS):
            break
        whole.add(number)
    assert log.handed_on(held.cut(reaches, ends)) == whole

"""What holds for any input: how arrivals are cut changes nothing, and ledger and manifest tell the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.build import superseded
from flows.services import Services
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit, LakeFile, fold
from flows.stores.recovery import histories_of, replace_ledger
from flows.stores.warehouse import Warehouse
from tests.flows import kill_child
from tests.flows.warehouses import NOW, Warehouses
from transforms import registry

STAGED, FACTS = "stg_events__user_events", "fct_events"
TOPICS = ("user_events", "page_views", "clicks")
PUBLISHED = (*(f"stg_events__{topic}" for topic in TOPICS), "dim_users", FACTS, "mart_daily_metrics")
ANY_CUT = settings(derandomize=True, max_examples=4)


@dataclass(frozen=True)
class Sent:
    """One message: in which batch it arrives, through which partition, and what it says."""

    batch: int
    partition: int
    event: int | None
    """Number of the event; a producer may send one twice. None: no JSON at all."""
    day: int
    seconds: int
    user_id: int | None
    topic: str = "user_events"

    @property
    def value(self) -> bytes:
        if self.event is None:
            return b"no json"
        happened = NOW - timedelta(days=self.day, seconds=self.seconds)
        return json.dumps(
            {
                "event_id": f"00000000-0000-4000-8000-{self.event:012d}",
                "event_type": "login",
                "event_time": happened.isoformat(),
                "user_id": self.user_id,
                "anonymous_id": "a",
                "session_id": f"s{self.partition}",
                "page": None,
                "properties": {"sent": [self.partition, self.day, self.seconds]},
            }
        ).encode()


SENT = st.builds(
    Sent,
    batch=st.integers(0, 4),
    partition=st.integers(0, 2),
    event=st.one_of(st.integers(0, 5), st.integers(0, 5), st.none()),
    day=st.sampled_from([0, 1, 2, 3, 20]),  # the last is further from the others than the lookback
    seconds=st.sampled_from([0, 1, 43_199, 43_200, 43_201, 86_399]),
    user_id=st.sampled_from([None, 1, 2, 3]),
)
SENT_TO_ANY = st.builds(replace, SENT, topic=st.sampled_from(TOPICS))


def land(services: Services, batch: int, messages: Sequence[tuple[int, Sent]]) -> None:
    """One landing a topic of these (offset, message)s, as `flows.landing` would enter it."""
    landed_at = NOW + timedelta(seconds=batch)
    for topic in sorted({sent.topic for _, sent in messages}):
        raw = f"raw_events__{topic}"
        own = [(offset, sent) for offset, sent in messages if sent.topic == topic]
        rows: list[dict[str, Any]] = [
            {
                "topic": topic,
                "kafka_partition": sent.partition,
                "kafka_offset": offset,
                "kafka_timestamp": NOW,
                "key": None,
                "headers": [],
                "value": sent.value,
                "_batch_id": f"b{batch}",
                "_landed_at": landed_at,
                "_seq": number,
            }
            for number, (offset, sent) in enumerate(own)
        ]
        windows = Counter(
            "" if sent.event is None else f"{NOW - timedelta(days=sent.day, seconds=sent.seconds):%Y-%m-%d}"
            for _, sent in own
        )
        with services.ledger() as ledger, duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            columns = registry.table(raw).columns
            names = ", ".join(f'"{column.name}"::{column.type} as "{column.name}"' for column in columns)
            connection.register("given", pa.Table.from_pylist(rows, _schema()))
            file = services.lake.write(
                "raw", raw, "landed_on", f"{landed_at:%Y-%m-%d}", f"b{batch}",
                connection.sql(f"select {names} from given"), measured="_landed_at",
            )  # fmt: skip
            commit = Commit(
                f"land-{topic}-{batch}", "land", "raw", raw, add=(file,), windows=dict(windows),
                row_count=len(rows), landed_at=landed_at,
            )  # fmt: skip
            ledger.record(services.lake, commit, version=ledger.positions(raw).version)


def _schema() -> pa.Schema:
    moment = pa.timestamp("us", tz="UTC")
    header = pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))
    return pa.schema(
        [
            ("topic", pa.string()), ("kafka_partition", pa.int32()), ("kafka_offset", pa.int64()),
            ("kafka_timestamp", moment), ("key", pa.binary()), ("headers", header), ("value", pa.binary()),
            ("_batch_id", pa.string()), ("_landed_at", moment), ("_seq", pa.int64()),
        ]
    )  # fmt: skip


def _delivered(
    warehouses: Warehouses, messages: Sequence[Sent], models: Sequence[str]
) -> dict[str, list[tuple[Any, ...]]]:
    """Land the batches one after the other, build after each, and tell what stands then."""
    offsets: Counter[tuple[str, int]] = Counter()
    batches: dict[int, list[tuple[int, Sent]]] = {}
    for sent in sorted(messages, key=lambda sent: sent.batch):
        batches.setdefault(sent.batch, []).append((offsets[sent.topic, sent.partition], sent))
        offsets[sent.topic, sent.partition] += 1
    with warehouses.lent(*models) as place:
        services = kill_child.services(place)
        for number, batch in batches.items():
            land(services, number, batch)
            kill_child.build_all(services, place, f"run-{number}")
        found = {name: _rows(services, name) for name in models}
        with psycopg.connect(place.warehouse_dsn) as connection:
            found["published"] = connection.execute(
                "select * from analytics.fct_events order by 1, 3"
            ).fetchall()
            found["dead letters"] = connection.execute(
                "select topic, kafka_partition, kafka_offset, payload, reason from ops.dead_letter "
                "order by 1, 2, 3"
            ).fetchall()
        services.lake.close()
    return found


def _files(services: Services, name: str) -> list[LakeFile]:
    with services.ledger() as ledger:
        return [file for state in ledger.states([name]).values() for file in state.files]


def _rows(services: Services, name: str) -> list[tuple[Any, ...]]:
    files = _files(services, name)
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        return services.lake.read(connection, files).order("all").fetchall() if files else []


def _cut_changes_nothing(warehouses: Warehouses, messages: list[Sent], models: Sequence[str]) -> None:
    # Offsets follow from the order of the batches, so the one big batch takes them in that order too.
    in_order = sorted(messages, key=lambda sent: sent.batch)
    at_once = [replace(sent, batch=0) for sent in in_order]
    assert _delivered(warehouses, messages, models) == _delivered(warehouses, at_once, models)


@ANY_CUT
@given(messages=st.lists(SENT, min_size=1, max_size=14))
def test_events_cut_into_any_batches_are_the_same_events(
    warehouses: Warehouses, messages: list[Sent]
) -> None:
    _cut_changes_nothing(warehouses, messages, [STAGED])


@pytest.mark.full
@settings(ANY_CUT, max_examples=60)
@given(messages=st.lists(SENT, min_size=2, max_size=30))
def test_many_events_cut_into_any_batches_are_the_same_events(
    warehouses: Warehouses, messages: list[Sent]
) -> None:
    _cut_changes_nothing(warehouses, messages, [STAGED])


def _of_one_user_each(messages: Sequence[Sent]) -> list[Sent]:
    """The same with all copies of an event naming one user: whoever an event has mentioned stays a member, so
    a copy that names somebody else leaves a trace of its own in dim_users (see the test of that name).
    """
    users: dict[int | None, int | None] = {}
    return [replace(sent, user_id=users.setdefault(sent.event, sent.user_id)) for sent in messages]


@pytest.mark.full
@settings(ANY_CUT, max_examples=12)
@given(messages=st.lists(SENT_TO_ANY, min_size=2, max_size=20))
def test_what_is_published_of_events_cut_into_any_batches_is_the_same(
    warehouses: Warehouses, messages: list[Sent]
) -> None:
    _cut_changes_nothing(warehouses, _of_one_user_each(messages), PUBLISHED)


@pytest.mark.full
@settings(ANY_CUT, max_examples=12)
@given(messages=st.lists(SENT_TO_ANY, min_size=2, max_size=20))
def test_days_that_lose_many_events_are_written_anew_and_hold_the_same(
    warehouses: Warehouses, messages: list[Sent]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(superseded, "MAX_GONE", 0)
        _cut_changes_nothing(warehouses, _of_one_user_each(messages), PUBLISHED)


def test_whoever_an_event_has_mentioned_stays_a_member(warehouses: Warehouses) -> None:
    """Events are only searched for users nobody has told us about when they are new."""
    with warehouses.lent(*PUBLISHED) as place:
        services = kill_child.services(place)
        for batch, (partition, user) in enumerate([(2, 1), (0, 2)]):
            land(services, batch, [(0, Sent(batch, partition, 1, 1, 43_200, user))])
            kill_child.build_all(services, place, f"run-{batch}")
        with psycopg.connect(place.warehouse_dsn) as connection:
            members = connection.execute(
                "select user_id, is_inferred from analytics.dim_users order by 1"
            ).fetchall()
            mentioned = connection.execute("select user_id from analytics.fct_events").fetchall()
        assert members == [(1, True), (2, True)]
        assert mentioned == [(2,)]
        services.lake.close()


def test_a_late_copy_that_counts_leaves_the_files_of_the_days_as_they_are(warehouses: Warehouses) -> None:
    def sent(batch: int, partition: int, event: int, day: int) -> Sent:
        return Sent(batch, partition, event, day, 43_200, 1)

    with warehouses.lent(STAGED, "dim_users", FACTS) as place:
        services = kill_child.services(place)
        land(services, 0, [(0, sent(0, 2, 1, 1)), (1, sent(0, 2, 2, 1))])
        kill_child.build_all(services, place, "run-0")
        before = {name: _files(services, name) for name in (STAGED, FACTS)}

        # A copy from a lower partition, of another day, comes after it.
        land(services, 1, [(0, sent(1, 0, 1, 2))])
        kill_child.build_all(services, place, "run-1")

        for name, files in before.items():
            after = {file.path: file for file in _files(services, name)}
            assert {file.path for file in files} <= after.keys(), name
            assert sum(len(after[file.path].gone) for file in files) == 1, name
            assert sum(file.rows for file in after.values()) == 2, name
        with psycopg.connect(place.warehouse_dsn) as connection:
            found = connection.execute(
                "select event_time::date::text, kafka_partition from analytics.fct_events order by 1"
            ).fetchall()
        assert found == [("2025-11-01", 0), ("2025-11-02", 2)]
        services.lake.close()


# ------------------------------------------------------------------------------------ ledger and manifest

STEP = st.tuples(
    st.sampled_from(["append", "replace", "compact", "note"]),
    st.sampled_from(["", "2025-11-01"]),
    st.booleans(),
)


def _file(number: int, partition: str) -> LakeFile:
    return LakeFile(
        STAGED, "staging", partition, f"staging/{STAGED}/{number}.parquet", 1, 1, f"{number:064d}"
    )


@settings(ANY_CUT, max_examples=25)
@given(steps=st.lists(STEP, min_size=1, max_size=12))
def test_manifest_and_ledger_tell_the_same_whatever_a_crash_left_out(
    warehouses: Warehouses, steps: list[tuple[str, str, bool]]
) -> None:
    """Each step is a commit; where the flag is set its writer dies before the manifest's line."""
    place, again = warehouses.place(), warehouses.place()
    in_force: dict[str, list[str]] = {"": [], "2025-11-01": []}
    with Lake(place.lake) as lake, Warehouse(place.warehouse_dsn).connect() as connection:
        ledger = Ledger(connection)
        for number, (what, partition, dies) in enumerate(steps):
            state = ledger.states([STAGED]).get((STAGED, partition))
            files = in_force[partition]
            if what == "compact" and not files:
                continue
            add = () if what == "note" else (_file(number, partition),)
            remove = tuple(files) if what in {"replace", "compact"} else ()
            in_force[partition] = [*(set(files) - set(remove)), *(file.path for file in add)]
            commit = Commit(
                f"t{number}", "compact" if what == "compact" else "build", "staging", STAGED, partition,
                add=add, remove=remove, based_on={"at": number},
            )  # fmt: skip
            with connection.transaction():
                ledger.commit(commit, version=state.version if state else 0)
            if not dies:
                ledger.finish(lake, [commit])
        ledger.repair_manifest(lake)
        states = {key: sorted(file.path for file in state.files) for key, state in ledger.states().items()}
        commits = lake.manifest("staging", STAGED)
        assert [commit.token for commit in commits] == sorted(
            (commit.token for commit in commits), key=lambda token: int(token[1:])
        )
        for partition, paths in in_force.items():
            assert states.get((STAGED, partition), []) == sorted(paths)
        assert sorted(file.path for file in fold(commits)) == sorted(
            path for paths in in_force.values() for path in paths
        )
        with Warehouse(again.warehouse_dsn).connect() as empty:
            with empty.transaction():
                replace_ledger(Ledger(empty), histories_of(lake))
            found = Ledger(empty).states()
        assert {key: sorted(file.path for file in state.files) for key, state in found.items()} == states
    for used in (place, again):
        warehouses.drop(used)

"""Histories of real change records, in whatever order and however often they are landed: always the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.sandbox.world import app
from tests.flows.capture import Capture
from tests.flows.extract.change_events import Topic
from tests.flows.extract.told import declared
from tests.flows.streaming.topics import until
from transforms import engine

SCHEMA = (Path(app.__file__).parent / "app_schema.sql").read_text(encoding="utf-8")
USERS = declared("users", "cdc")
Version = tuple[Any, ...]


def lived(seed: int) -> list[str]:
    """What happens to a few users; a truncate is not among it, since it names no row."""
    chance = random.Random(seed)

    def one() -> str:
        key, other = chance.randint(1, 5), chance.randint(1, 5)
        return chance.choice(
            [
                f"insert into users (id, plan, country, created_at, updated_at) values ({key}, 'free', 'DE', "
                "'2025-01-01', '2025-01-01') on conflict (id) do update set country = 'FR'",
                f"update users set plan = '{chance.choice(['free', 'pro', 'team'])}' where id = {key}",
                f"update users set locale = 'de-{chance.randint(1, 9)}' where id = {key}",
                f"update users set id = {other} where id = {key} "
                f"and not exists (select from users where id = {other})",
                f"delete from users where id = {key}",
            ]
        )

    return ["; ".join(one() for _ in range(chance.randint(1, 3))) for _ in range(40)]


def landed(portions: Sequence[Sequence[dict[str, Any]]]) -> Topic:
    """The records landed portion by portion, numbered as they come."""
    topic = Topic(USERS)
    for portion in portions:
        start = len(topic.records)
        topic.records += [{**one, "kafka_offset": start + place} for place, one in enumerate(portion)]
        topic.land()
    return topic


def history(topic: Topic, seed: int | None = None) -> list[Version]:
    """dim_users_history over what was landed, its rows shuffled where a seed is given."""
    raw = pa.concat_tables(topic.landed, promote_options="default")
    if seed is not None:
        raw = raw.take(random.Random(seed).sample(range(raw.num_rows), raw.num_rows))
    connection = engine.connect(threads=1)
    try:
        connection.register("files", raw)
        rows = engine.run("dim_users_history", connection, {USERS.table: "select * from files"})
        return sorted(rows.fetchall())
    finally:
        connection.close()


def test_shuffled_and_doubled_changes_give_the_same_history(capture: Capture) -> None:
    capture.app(
        SCHEMA, "insert into users (id, plan, updated_at) values (1, 'free', '2025-01-01'), (9, 'pro', null)"
    )
    capture.register(USERS)
    until(lambda: len(capture.ids("users")) == 2, seconds=60)
    capture.app(*lived(7), "insert into users (id, plan) values (77, 'team')")
    until(lambda: 77 in capture.ids("users"), seconds=60)
    records = capture.records("users")
    in_order = history(landed([records]))
    assert len(in_order) > 20
    assert_seamless(in_order)

    @settings(max_examples=5, derandomize=True, database=None)
    @given(seed=st.integers(0, 1 << 30), doubled=st.integers(0, 20), cuts=st.integers(1, 4))
    def holds(seed: int, doubled: int, cuts: int) -> None:
        chance = random.Random(seed)
        sent = [*records, *chance.choices(records, k=doubled)]
        chance.shuffle(sent)
        size = -(-len(sent) // cuts)
        topic = landed([sent[start : start + size] for start in range(0, len(sent), size)])
        assert topic.problems == []
        assert history(topic) == in_order
        # Rebuilt from raw, in whatever order the files give it.
        assert history(topic, seed) == in_order

    holds()


def assert_seamless(versions: Sequence[Version]) -> None:
    """Half-open, without gap and overlap: each version of a user ends where the next one begins."""
    for _, own in groupby(versions, key=lambda version: version[0]):
        found = list(own)
        for (_, start, end, *_), (_, after, _, prev_to, *_) in pairwise(found):
            assert start < end == after == prev_to
        assert [version[4] for version in found] == [False] * (len(found) - 1) + [True]
        assert found[0][3] is None
        assert found[-1][2] is None

"""A retention that would let something be built of less than it was is refused; a window passes it whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import registry, retention
from transforms.contract import ContractError, Layer, Partition, Table, Write
from transforms.entities import Kafka, Postgres, Rest, SourceEntity

DAY, MONTH = Partition("happened_at", "day"), Partition("happened_at", "month")
BEGIN = datetime(1990, 1, 1, tzinfo=UTC)
TOPIC = Kafka("clicks")
LIST = Rest("/v1/charges", "data", "cursor")


def days(number: int) -> timedelta:
    return timedelta(days=number)


def entity(kept: int | None = 60, **given: Any) -> SourceEntity:
    words: dict[str, Any] = {
        "read": TOPIC,
        "partition": DAY,
        "retention": days(kept) if kept else None,
        **given,
    }
    return SourceEntity("events", "clicks", key=("kafka_offset",), grain="one record", **words)


def reader(kept: int | None = 30, **given: Any) -> Table:
    words: dict[str, Any] = {"partition": DAY, "retention": days(kept) if kept else None, **given}
    return Table(
        "stg_clicks", Layer.STAGING, "one click", ("id",), (), upstreams=("raw_events__clicks",), **words
    )


def checked(source: SourceEntity, *readers: Table) -> None:
    retention.check(readers, {source.table: source})


@pytest.mark.parametrize(
    ("source", "tables"),
    [
        (entity(None), [reader(None)]),
        (entity(None, partition=None), [reader(None, partition=None)]),
        (entity(31), [reader(30)]),
        (entity(31, read=LIST), [reader(30)]),
        (entity(61), [reader(30, partition=MONTH)]),
        (entity(39), [reader(30, write=Write.APPEND, lookback=days(8))]),
        (entity(60), []),
    ],
)
def test_raw_may_go_when_all_that_would_be_built_of_it_is_past_before(
    source: SourceEntity, tables: list[Table]
) -> None:
    checked(source, *tables)


@pytest.mark.parametrize(
    ("source", "table", "said"),
    [
        (entity(), reader(None), "keeps all windows and reads a day further back"),
        (entity(30), reader(30), "`retention: 29 days` or less in the header of stg_clicks"),
        (entity(60), reader(30, partition=MONTH), "`retention: 29 days` or less in the header of stg_clicks"),
        (
            entity(38),
            reader(30, lookback=days(8)),
            "`retention: 29 days` or less in the header of stg_clicks",
        ),
        (entity(), reader(None, partition=None), "stg_clicks reads all of it"),
        (entity(), reader(by_key={"raw_events__clicks": ("id",)}), "stg_clicks reads all of it"),
        (entity(), reader(mentioned_by={"raw_events__clicks": "id"}), "stg_clicks reads all of it"),
        (entity(read=Postgres("clicks")), reader(), "events.clicks can't have a retention"),
    ],
)
def test_raw_may_not_go_while_something_would_be_built_of_less(
    source: SourceEntity, table: Table, said: str
) -> None:
    with pytest.raises(ContractError) as refused:
        checked(source, table)
    assert said in str(refused.value)


def test_a_retention_needs_windows_that_can_pass_it() -> None:
    with pytest.raises(ContractError, match="raw_events__clicks: it has a retention and no windows"):
        registry.raw_table(entity(partition=None))


def test_a_topic_is_kept_for_a_week_at_least() -> None:
    assert TOPIC.retention == days(7)
    with pytest.raises(ContractError, match="Topic clicks: a retention of less than 7 days"):
        Kafka("clicks", retention=days(6))


def test_raw_is_kept_for_ever_by_default_and_a_time_shorter_than_staging_needs_is_refused() -> None:
    assert {one.retention for one in registry.entities()} == {None}
    everything = registry.default()
    for one in registry.entities():
        if isinstance(one.read, Kafka):
            models = [model.table for model in everything.models.values()]
            shorter = SourceEntity(**{**one.__dict__, "retention": days(365)})
            with pytest.raises(ContractError, match="`retention: 356 days` or less in the header"):
                retention.check(models, {one.table: shorter})


@given(
    st.timedeltas(timedelta(0), days(20_000)).map(lambda later: BEGIN + later),
    st.timedeltas(timedelta(0), days(4000)),
    st.timedeltas(days(-9000), days(9000)),
    st.sampled_from([DAY, MONTH]),
)
def test_no_moment_that_is_kept_is_in_a_window_that_is_past(
    now: datetime, kept: timedelta, ago: timedelta, partition: Partition
) -> None:
    table = reader(partition=partition, retention=kept)
    window = partition.key(now - ago)
    longest = days(31) if partition is MONTH else days(1)
    if ago <= kept:
        assert not table.is_past_retention(window, now)
    if ago >= kept + longest:
        assert table.is_past_retention(window, now)
    assert not table.is_past_retention("", now)
    assert not reader(None, partition=partition).is_past_retention(window, now)

"""The generated company, delivered to a real database and a real broker, and its truth recounted from what
they hold.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource

from flows import sandbox
from flows.sandbox.apis.store import Store
from flows.sandbox.world import WorldError, clickstream, exists, lives, sizes, topics
from flows.sandbox.world.poison import REASONS
from flows.sandbox.world.shape import DEFAULT_END, micros, moment
from tests.flows.sandbox import truth
from tests.flows.sandbox.recount import Company, Message, arguments, event, hold_to_the_truth, winners

SMALL: dict[str, Any] = {"days": 10, "events_per_day": 2_000, "users": 600, "orders": 2_400}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sandbox.State]:
    folder = tmp_path_factory.mktemp("company")
    try:
        yield sandbox.start(folder, frozenset({sandbox.Part.APP_POSTGRES, sandbox.Part.KAFKA}))
    finally:
        sandbox.reset(folder)


@pytest.fixture(scope="module")
def small(services: sandbox.State) -> Company:
    """A small world as it was made."""
    return Company(services, lives.create(*arguments(services), **SMALL))


def test_a_world_has_the_sizes_it_was_asked_for(small: Company) -> None:
    count = small.query("select count(*) from orders")[0][0]
    assert 2_400 - 30 <= count <= 2_400
    assert 580 <= small.query("select count(*) from users")[0][0] <= 600
    assert 10 * 2_000 <= len(small.messages()) <= 10 * 2_000 * 1.05
    assert small.world.end == DEFAULT_END
    assert exists(small.state.folder)


def test_topics_keep_a_week_and_their_timestamps_are_send_times(small: Company) -> None:
    assert small.state.kafka_bootstrap is not None
    admin = AdminClient({"bootstrap.servers": small.state.kafka_bootstrap})
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in clickstream.TOPICS]
    for future in admin.describe_configs(resources).values():
        assert int(future.result()["retention.ms"].value) >= 7 * 86_400_000
    stamps = [message.timestamp for message in small.messages()]
    assert min(stamps) > (DEFAULT_END + timedelta(days=1)).timestamp() * 1000
    assert max(stamps) - min(stamps) < 3_600_000


def test_events_are_late_repeated_out_of_order_anonymous_and_strange(small: Company) -> None:
    messages = small.messages()
    events = [(m, fields) for m in messages if (fields := event(m)) is not None]
    copies: defaultdict[str, list[tuple[Message, dict[str, Any]]]] = defaultdict(list)
    for m, fields in events:
        copies[fields["event_id"]].append((m, fields))
    repeated = [group for group in copies.values() if len(group) > 1]
    assert len(repeated) > 0.01 * len(copies)
    assert any(len({f["event_time"] for _, f in group}) > 1 for group in repeated), (
        "copies with another event_time"
    )
    assert any(len({m.partition for m, _ in group}) > 1 for group in repeated), "copies in another partition"
    assert any(m.headers for group in repeated for m, _ in group)
    by_partition = [f["event_time"] for m, f in events if (m.topic, m.partition) == ("page_views", 0)]
    behind = [max(by_partition[:i]) - at for i, at in enumerate(by_partition) if i]
    assert max(behind) > timedelta(days=3), "events that are days late"
    assert sum(b > timedelta(0) for b in behind) > 50, "events out of order"
    assert {f["user_id"] is None for _, f in events} == {True, False}
    kinds = {f["event_type"] for _, f in events if "event_type" in f}
    assert {"signup", "order_placed", "cart.abandon_v2", "beta:実験"} <= kinds
    values = [m.value or b"" for m, _ in events]
    assert any(b"\\u0000" in v for v in values)
    for offset in (b"+02:00", b"+01:00", b"-04:00", b"-05:00", b"+05:30", b"+11:00", b"Z"):
        assert any(offset + b'"' in v for v in values), offset
    assert any(b'"page":null' in v for v in values)
    reasons = pl.read_parquet(small.truth / "rows" / "dead_letters.parquet")["reason"]
    assert set(reasons) == set(REASONS)


def test_an_event_is_sent_after_it_happened(small: Company) -> None:
    log, periods = small.world.log, small.world.periods
    ahead = pl.col("event_time") - pl.col("sent_at")
    assert log.scan("deliveries", 0, periods).select(ahead.max()).collect().item() < 0


@pytest.mark.parametrize(
    ("what", "condition"),
    [
        ("soft deletions", "select * from users where deleted_at is not null"),
        (
            "hard deletions",
            "select * from generate_series(1, 600) as id where id not in (select id from users)",
        ),
        ("orders before their user", "select * from orders where user_id not in (select id from users)"),
        ("names with quotes", "select * from users where name like '%''%' or name like '%\"%'"),
        ("names in Arabic", "select * from users where name ~ '[\u0600-\u06ff]'"),
        ("names in Chinese", "select * from users where name ~ '[\u4e00-\u9fff]'"),
        ("users without a name", "select * from users where name is null"),
        ("updated users", "select * from users where updated_at > created_at"),
        ("free orders", "select * from orders where total_amount = 0 and coupon_code is not null"),
        ("yen", "select * from orders where currency = 'JPY' and total_amount = trunc(total_amount)"),
        ("partial refunds", "select * from payments where status = 'partially_refunded'"),
        ("two refunds of one payment", "select payment_id from refunds group by 1 having count(*) > 1"),
        ("disputes", "select * from payments where status = 'disputed'"),
        ("failed payments", "select * from payments where status = 'failed'"),
        (
            "payments by bank",
            "select * from payments where method = 'bank_transfer' and stripe_charge_id is null",
        ),
        ("price changes", "select * from product_prices where valid_to is not null"),
        ("tags to be quoted", "select * from products where 'a,b' = any(tags) or '{curly}' = any(tags)"),
        ("images", "select * from products where length(image) > 3"),
        ("eighteen decimals", "select * from products where scale(weight_kg) = 18"),
        ("open ranges", "select * from coupons where upper_inf(valid_during)"),
        (
            "both families of addresses",
            "select family(last_ip) from users group by 1 having family(last_ip) = 6",
        ),
    ],
)
def test_the_database_holds_what_real_ones_hold(small: Company, what: str, condition: str) -> None:
    assert small.query(condition), what


def test_no_order_breaks_the_rules_of_the_trade(small: Company) -> None:
    assert not small.query(
        "select * from orders where total_amount <> quantity * unit_price - discount_amount"
    )
    assert not small.query(
        "select * from orders where total_amount < 0 or (total_amount = 0 and coupon_code is null)"
    )
    assert not small.query(
        "select * from orders where currency in ('JPY', 'KRW') and total_amount <> trunc(total_amount)"
    )
    assert not small.query(
        "select payment_id from refunds join payments on payments.id = payment_id"
        " group by payment_id, payments.amount having sum(refunds.amount) > payments.amount"
    )
    assert not small.query(
        "select order_id from order_events group by 1"
        " having count(*) filter (where from_status is null) <> 1 or count(*) <> count(distinct to_status)"
    )


def test_the_apis_tell_the_same_story_as_the_database(small: Company) -> None:
    store = Store(small.state.folder)
    charges = {c["id"]: c for c in map(json.loads, store.page("charges", limit=100_000))}
    paid = small.query(
        "select stripe_charge_id, amount, currency, status from payments where stripe_charge_id is not null"
    )
    assert {row[0] for row in paid} == set(charges)
    for charge, amount, currency, status in paid:
        minor = int(amount) if currency in ("JPY", "KRW") else int(amount * 100)
        assert (charges[charge]["amount"], charges[charge]["currency"]) == (minor, currency.lower())
        assert charges[charge]["disputed"] == (status == "disputed")
    refunds = [json.loads(body) for body in store.page("refunds", limit=100_000)]
    assert Counter(r["id"] for r in refunds) == Counter(
        row[0]
        for row in small.query("select stripe_refund_id from refunds where stripe_refund_id is not null")
    )
    assert Counter(r["charge"] for r in refunds).keys() == {
        i for i, c in charges.items() if c["amount_refunded"]
    }
    kinds = Counter(json.loads(body)["type"] for body in store.page("events", limit=100_000))
    assert {
        "charge.succeeded",
        "charge.failed",
        "charge.refunded",
        "charge.dispute.created",
        "customer.updated",
        "balance.available",
    } <= set(kinds)
    for kind in (
        "customers",
        "disputes",
        "balance_transactions",
        "payouts",
        "messages",
        "stats",
        "bounces",
        "blocks",
    ):
        assert store.count(kind) > 0, kind
    messages = [json.loads(body) for body in store.page("messages", limit=100_000)]
    assert {m["status"] for m in messages} >= {"delivered", "not_delivered"}
    days = [json.loads(body)["stats"][0]["metrics"] for body in store.page("stats", limit=1000)]
    assert sum(day["requests"] for day in days) == len(messages)
    assert sum(day["opens"] for day in days) == sum(m["opens_count"] for m in messages)
    store.close()


def test_the_truth_is_what_database_and_topics_hold(small: Company) -> None:
    hold_to_the_truth(small)


def test_one_planted_cent_is_told(small: Company, tmp_path: Path) -> None:
    import duckdb

    rows = small.truth / "rows" / "fct_orders.parquet"
    for name, column in (
        ("right", "revenue"),
        ("wrong", "revenue + case when row_number() over () = 7 then 0.01 else 0 end"),
    ):
        with duckdb.connect(str(tmp_path / f"{name}.duckdb")) as warehouse:
            warehouse.execute(
                f"create table fct_orders as select * replace ({column} as revenue) from '{rows}'"
            ).fetchall()
            lines = truth.differences(warehouse, small.truth, schema="", tables=["fct_orders"])
            assert len(lines) == (1 if name == "wrong" else 0), lines


@pytest.fixture(scope="module")
def older(small: Company) -> tuple[Company, dict[date, int], set[uuid.UUID]]:
    """The same world three days later, the first advance having been interrupted on its way. Changes
    `small`'s services.
    """
    before = Counter(fields["event_time"].date() for fields in winners(small.messages()).values())
    shipped = {row[0] for row in small.query("select id from orders where status = 'shipped'")}

    def trip(what: str, _done: int, _steps: int) -> None:
        if what == "the truth":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lives.advance(*small.arguments, days=1, progress=trip)
    lives.advance(*small.arguments, days=5)  # finishes the one day it was about
    return Company(small.state, lives.advance(*small.arguments, days=2)), dict(before), shipped


def test_advance_brings_late_events_for_earlier_days_and_changes_what_was_there(
    older: tuple[Company, dict[date, int], set[uuid.UUID]],
) -> None:
    small, before, shipped = older
    assert small.world.end == DEFAULT_END + timedelta(days=3)
    after = Counter(fields["event_time"].date() for fields in winners(small.messages()).values())
    grown = [day for day, count in before.items() if after[day] > count]
    assert DEFAULT_END.date() in grown
    assert any(day <= DEFAULT_END.date() - timedelta(days=2) for day in grown), (
        "a day that was long over gained events"
    )
    delivered = "select id from orders where status = 'delivered' and updated_at > '2025-11-03 12:00+00'"
    assert shipped & {row[0] for row in small.query(delivered)}
    assert small.query("select count(*) from orders where created_at > '2025-11-05 12:00+00'")[0][0] > 0


def test_after_an_interrupted_advance_nothing_is_there_twice(
    older: tuple[Company, dict[date, int], set[uuid.UUID]],
) -> None:
    hold_to_the_truth(older[0])


@pytest.mark.usefixtures("older")
def test_the_clock_is_told_the_new_end_before_anybody_can_see_something_of_it(
    older: tuple[Company, dict[date, int], set[uuid.UUID]], services: sandbox.State
) -> None:
    newest = "select max(updated_at) from orders"
    before = topics.positions(arguments(services)[2]), older[0].query(newest)
    told: list[datetime] = []
    ahead = timedelta(days=-7)

    def clock(end: datetime) -> timedelta:
        told.append(end)
        assert (topics.positions(arguments(services)[2]), older[0].query(newest)) == before
        if len(told) == 1:
            raise KeyboardInterrupt
        return ahead

    with pytest.raises(KeyboardInterrupt):
        lives.advance(*arguments(services), days=1, clock=clock)
    world = lives.advance(*arguments(services), days=1, clock=clock)
    assert told == [world.end, world.end]
    assert topics.positions(arguments(services)[2]) == world.positions != before[0]
    since = moment(world.stops[-2]).isoformat()
    commit = f"select distinct pg_xact_commit_timestamp(xmin) from order_events where occurred_at > '{since}'"
    ((committed,),) = older[0].query(commit)
    assert world.commits[-1] == micros(committed + ahead), "when it was committed, in the world's time"


def test_an_advance_that_was_committed_is_not_committed_again(
    older: tuple[Company, dict[date, int], set[uuid.UUID]], services: sandbox.State
) -> None:
    def trip(what: str, _done: int, _steps: int) -> None:
        if what.startswith("events of"):
            raise KeyboardInterrupt

    rows = "select count(*), max(pg_xact_commit_timestamp(xmin)) from users"
    with pytest.raises(KeyboardInterrupt):
        lives.advance(*arguments(services), days=1, progress=trip)
    before = older[0].query(rows)
    world = lives.advance(*arguments(services), days=1)
    assert older[0].query(rows) == before
    assert world.commits[-1] == micros(before[0][1])


@pytest.mark.full
@pytest.mark.usefixtures("older")
def test_an_interrupted_creation_counts_as_none_and_is_made_anew(services: sandbox.State) -> None:
    def trip(what: str, _done: int, _steps: int) -> None:
        if what == "application database":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lives.create(*arguments(services), **SMALL | {"days": 2}, progress=trip)
    assert not exists(services.folder)
    with pytest.raises(WorldError, match="sandbox start"):
        lives.advance(*arguments(services))
    hold_to_the_truth(
        Company(services, lives.create(*arguments(services), **SMALL | {"days": 2, "orders": 400}))
    )


@pytest.mark.full
@pytest.mark.usefixtures("older")
def test_the_default_world_holds_its_truth(services: sandbox.State) -> None:
    company = Company(services, lives.create(*arguments(services), **sizes(1, 14)))
    assert 295_000 < sum(truth.expected(company.truth, "fct_events")[key] for key in _rows(company)) < 310_000
    hold_to_the_truth(company)


def _rows(small: Company) -> list[truth.Key]:
    return [key for key in truth.expected(small.truth, "fct_events") if key[2] == "rows"]

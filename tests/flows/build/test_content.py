"""A model's new content: what has no partition stops the build, what no model reads does not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from flows.build import content
from flows.build.content import ContentError
from flows.sandbox.apis import stripe_objects as stripe
from transforms import engine, registry

CHARGE = stripe.charge(id="ch_1", amount=1000, currency="eur", created=1_761_000_000)


def _partitions(*objects: Mapping[str, Any]) -> dict[str, int]:
    """Partition → rows of stg_stripe__events, built of an event about each of these objects."""
    events = [
        stripe.event(id=f"evt_{number}", type="a.b", created=1_762_000_000, object=dict(value))
        for number, value in enumerate(objects)
    ]
    with engine.connect(threads=1) as connection:
        connection.execute(
            "create table landed as select object ->> 'id' as id, object, now() as window_start, "
            "now() as window_end, 'b1' as _batch_id, now() as _landed_at, 0::bigint as _seq "
            "from (select unnest(?)::json as object)",
            [[json.dumps(event) for event in events]],
        )
        known = registry.default()
        table = registry.table("stg_stripe__events")
        content.compute(table, connection, {"raw_stripe__events": "landed"}, known)
        return content.partitions(connection)


def test_an_event_of_stripes_about_nothing_that_a_model_reads_stops_no_build() -> None:
    assert _partitions(CHARGE, stripe.balance(available={"eur": 1000})) == {"2025-10": 1}


@pytest.mark.parametrize("lacking", ["created", "object"])
def test_an_event_of_stripes_that_lacks_what_is_always_sent_stops_the_build(lacking: str) -> None:
    broken = {name: value for name, value in CHARGE.items() if name not in {"created", lacking}}
    with pytest.raises(ContentError, match="1 rows have no object_created_at"):
        _partitions(CHARGE, broken)

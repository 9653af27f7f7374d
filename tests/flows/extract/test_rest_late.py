"""What an API shows after its read had passed: it arrives, however long the list was quiet before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from flows.extract import Extract
from flows.extract.rest import read
from flows.sandbox.apis import sendgrid_objects
from tests.flows.extract.test_rest import CHARGES, ENTITIES, NOW, SECOND, addresses, charge, drain, ids
from transforms.entities import Rest, SourceEntity

HOUR, DAY = 3600, 86400


def at(apis: Any, entity: SourceEntity, seconds: int, position: Mapping[str, Any] | None) -> Extract:
    """A read so long after NOW."""
    now: datetime = NOW + timedelta(seconds=seconds)
    return read(entity, apis.connection(entity.source), position, now)


def hourly(
    apis: Any, entity: SourceEntity, hours: range, position: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """The position after a read in each of these hours, none of which lands anything."""
    for hour in hours:
        extract = at(apis, entity, hour * HOUR, position)
        assert drain(extract) == []
        position = extract.positions
    assert position is not None
    return position


def message(name: str, time: datetime) -> dict[str, Any]:
    """One that was last heard of then."""
    return sendgrid_objects.message(
        msg_id=name, to_email="a@example.com", subject="News", last_event_time=f"{time:%Y-%m-%dT%H:%M:%SZ}"
    )


def test_a_charge_that_is_listed_after_days_of_quiet_arrives_once(apis: Any) -> None:
    apis.store.put("charges", [charge(0), charge(1)])
    first = at(apis, CHARGES, 0, None)
    assert len(drain(first)) == 2
    position = hourly(apis, CHARGES, range(1, 72, 5), first.positions)

    # Created two days ago, and not shown by any of the reads since.
    apis.store.put("charges", [charge(9, created=SECOND + DAY)])
    late = at(apis, CHARGES, 3 * DAY, position)
    assert ids(drain(late)) == ["ch_00009"]
    assert late.windows == {"2025-11-04": 1}
    hourly(apis, CHARGES, range(73, 76), late.positions)


def test_the_first_object_of_a_list_arrives_however_late_it_is_listed(apis: Any) -> None:
    position = hourly(apis, CHARGES, range(0, 72, 12), None)
    apis.store.put("charges", [charge(9, created=SECOND - 30 * DAY)])

    assert ids(drain(at(apis, CHARGES, 3 * DAY, position))) == ["ch_00009"]


def test_a_bounce_of_the_newest_ones_second_arrives_too(apis: Any) -> None:
    entity = ENTITIES["raw_sendgrid__bounces"]
    one, other = (
        sendgrid_objects.bounce(email=f"{name}@example.com", created=SECOND - 1, reason="550")
        for name in ("one", "other")
    )
    apis.store.put("bounces", [one])
    first = at(apis, entity, 0, None)
    drain(first)
    position = hourly(apis, entity, range(1, 48, 12), first.positions)
    apis.store.put("bounces", [other])

    assert addresses(drain(at(apis, entity, 2 * DAY, position))) == ["other@example.com"]


def test_a_message_that_is_listed_after_days_of_quiet_arrives(apis: Any) -> None:
    entity = ENTITIES["raw_sendgrid__messages"]
    apis.store.put("messages", [message("before", NOW - timedelta(seconds=1))])
    first = at(apis, entity, 0, None)
    assert ids(drain(first)) == ["before"]
    position = hourly(apis, entity, range(1, 48, 12), first.positions)
    apis.store.put("messages", [message("late", NOW + timedelta(days=1))])

    assert ids(drain(at(apis, entity, 2 * DAY, position))) == ["late"]


def test_a_position_of_before_is_gone_on_from(apis: Any) -> None:
    apis.store.put("charges", [charge(0)])
    first = at(apis, CHARGES, 0, None)
    drain(first)
    older = {name: value for name, value in first.positions.items() if name != "newest"}
    position = hourly(apis, CHARGES, range(1, 48, 12), older)
    apis.store.put("charges", [charge(9, created=SECOND + 60)])

    assert ids(drain(at(apis, CHARGES, 2 * DAY, position))) == ["ch_00009"]


@pytest.mark.parametrize("field", ["nothing", "metadata.then"])
def test_a_list_whose_time_is_not_declared_is_not_read_from_its_beginning_each_time(
    apis: Any, field: str
) -> None:
    """What ranges are about is not known of it: the field is missing, or has times that nobody asked for."""
    assert isinstance(CHARGES.read, Rest)
    entity = replace(CHARGES, read=replace(CHARGES.read, recorded_at=field))
    apis.store.put("charges", [charge(number, metadata={"then": number}) for number in (1, 2)])
    first = at(apis, entity, 0, None)
    assert len(drain(first)) == 2

    apis.store.put("charges", [charge(3, SECOND + HOUR, metadata={"then": 3})])
    rows = drain(at(apis, entity, 2 * HOUR, first.positions))
    assert "ch_00003" in ids(rows)
    assert {row["window_start"] for row in rows} == {NOW - timedelta(hours=1)}

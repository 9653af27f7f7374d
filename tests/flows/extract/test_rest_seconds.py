"""More records in one second than a service lists at once: all of them land, or that some do not is said."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from flows.extract.http import RestError
from flows.extract.rest import read
from flows.sandbox.apis import sendgrid_objects
from tests.flows.extract.test_rest import ENTITIES, NOW, drain, everything, ids
from transforms.entities import Rest, SourceEntity

MESSAGES = ENTITIES["raw_sendgrid__messages"]
HOUR_AGO = NOW - timedelta(hours=1)


def newsletter(apis: Any, count: int, name: str = "m{:05d}") -> list[str]:
    """So many messages that were delivered in one second, and one before and after it; returns their ids."""
    at = [HOUR_AGO] * count + [HOUR_AGO - timedelta(seconds=1), HOUR_AGO + timedelta(seconds=1)]
    messages = [
        sendgrid_objects.message(
            msg_id=name.format(number),
            to_email=f"{number}@example.com",
            subject="News",
            last_event_time=f"{time:%Y-%m-%dT%H:%M:%SZ}",
        )
        for number, time in enumerate(at)
    ]
    apis.store.put("messages", messages)
    return sorted(item["msg_id"] for item in messages)


def split_by(*split: str) -> SourceEntity:
    """The same list where a second that is full is parted in another way."""
    assert isinstance(MESSAGES.read, Rest)
    return replace(MESSAGES, read=replace(MESSAGES.read, split=split or None))


@pytest.mark.parametrize("name", ["m{:05d}", "m%_{:x}.filter", "{:d}-Äb", "same-{0:05d}" + "x" * 60])
def test_a_second_of_more_messages_than_an_answer_holds_lands_whole(apis: Any, name: str) -> None:
    sent = newsletter(apis, 5500, name)

    extract = everything(apis, MESSAGES)
    rows = drain(extract)

    assert sorted(ids(rows)) == sent
    assert extract.warnings == []
    second = {row["id"] for row in rows if row["window_start"] == HOUR_AGO}
    assert len(second) == 5500
    again = read(MESSAGES, apis.connection("sendgrid"), extract.positions, NOW + timedelta(minutes=5))
    assert drain(again) == []


@pytest.mark.parametrize(
    "split",
    [(), (' AND nobody < "{id}"', ' AND nobody >= "{id}"'), ("", "")],
    ids=["nothing parts it", "the service refuses to part it", "the service lists the same in both parts"],
)
def test_what_a_second_can_not_be_parted_into_is_said_and_all_else_goes_on(
    apis: Any, split: tuple[str, ...]
) -> None:
    sent = newsletter(apis, 2500)

    extract = everything(apis, split_by(*split))
    rows = drain(extract)

    assert len(rows) == len(set(ids(rows))) == 1002
    assert {*sent[-2:]} < {*ids(rows)}
    (said,) = extract.warnings
    assert "sendgrid.messages: 1,000 or more records in the second 2025-11-03T11:00:00Z" in said
    assert extract.positions["until"] == NOW.isoformat()


def test_a_key_that_is_refused_while_a_second_is_parted_stops_the_read(apis: Any) -> None:
    newsletter(apis, 2500)
    end, before = HOUR_AGO + timedelta(seconds=1), apis.requests("/v3/messages")
    assert len(drain(read(MESSAGES, apis.connection("sendgrid"), None, end))) == 2501
    # The last requests are those that part the second.
    apis.fault("status", status=401, skip=apis.requests("/v3/messages") - before - 2)
    with pytest.raises(RestError, match="401"):
        drain(read(MESSAGES, apis.connection("sendgrid"), None, end))


def test_messages_with_ids_that_no_query_can_hold_are_listed_as_far_as_they_are(apis: Any) -> None:
    sent = newsletter(apis, 1200, '"{:05d}\\')

    extract = everything(apis, MESSAGES)

    found = [json.loads(row["object"])["msg_id"] for row in drain(extract)]
    assert len(found) == 1002
    assert {*found} < {*sent}
    assert len(extract.warnings) == 1

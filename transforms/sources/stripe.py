"""Stripe: what is landed from its API, and why `events` is among it.

A list of charges filtered by `created` never shows a later change of an old charge. Every change is an event
that holds the whole object as it was then, so staging takes the newest version of an object from its list and
from `events` together. Stripe keeps events for 30 days: a position older than that stops the entity.
"""

from __future__ import annotations

from datetime import timedelta

from transforms.contract import Partition
from transforms.entities import Api, Rest, SourceEntity

API = Api(auth="bearer", title="Stripe")


def _list(
    name: str, grain: str, *, event_time: str = "created", keeps: timedelta | None = None
) -> SourceEntity:
    return SourceEntity(
        source="stripe",
        name=name,
        read=Rest(
            path=f"/v1/{name}",
            records="data",
            paging="cursor",
            api=API,
            cursor_param="starting_after",
            more_path="has_more",
            lost_cursor="resource_missing",
            since="created[gte]",
            until="created[lt]",
            event_time=event_time,
            keeps=keeps,
        ),
        key=("id",),
        grain=grain,
        partition=Partition(event_time, "day"),
        personal=("name", "phone", "line1", "line2", "city", "postal_code"),
    )


ENTITIES: tuple[SourceEntity, ...] = (
    _list("charges", "one row per version of a Stripe charge seen in the list of charges"),
    _list("refunds", "one row per version of a Stripe refund seen in the list of refunds"),
    _list("customers", "one row per version of a Stripe customer seen in the list of customers"),
    _list("balance_transactions", "one row per version of a movement of the Stripe balance"),
    _list("disputes", "one row per version of a dispute seen in the list of disputes"),
    _list("payouts", "one row per version of a payout seen in the list of payouts"),
    _list(
        "events",
        "one row per Stripe event: an object as it was after a change",
        # The window that changes is the object's, not that of the event.
        event_time="data.object.created",
        keeps=timedelta(days=30),
    ),
)

"""SendGrid: what is landed from its API.

Messages come from the email activity feed, which has no paging: a range of `last_event_time` is split until
an answer is not full, and a second (a newsletter has many messages in one) by ids. A message moves to a later
time with every open and click, so it comes again by itself.
"""

from __future__ import annotations

from datetime import timedelta

from transforms.contract import Partition
from transforms.entities import Api, Rest, SourceEntity

API = Api(auth="bearer", title="SendGrid")


def _suppressions(name: str, grain: str) -> SourceEntity:
    return SourceEntity(
        source="sendgrid",
        name=name,
        read=Rest(
            path=f"/v3/suppression/{name}",
            records=None,
            paging="offset",
            api=API,
            since="start_time",
            until="end_time",
            until_is_inclusive=True,
            page_size=500,
            id_fields=("email", "created"),
            event_time="created",
        ),
        key=("id",),
        grain=grain,
        partition=Partition("created", "day"),
        personal=("ip", "reason"),
    )


ENTITIES: tuple[SourceEntity, ...] = (
    SourceEntity(
        source="sendgrid",
        name="messages",
        read=Rest(
            path="/v3/messages",
            records="messages",
            paging="window",
            api=API,
            time_format="iso",
            parameters={
                "query": 'last_event_time BETWEEN TIMESTAMP "{since}" AND TIMESTAMP "{until}"{split}'
            },
            split=(' AND msg_id < "{id}"', ' AND msg_id >= "{id}"'),
            until_is_inclusive=True,
            page_size=1000,
            id_fields=("msg_id",),
            recorded_at="last_event_time",
            keeps=timedelta(days=30),
            # No event_time: the feed does not say when a message was sent, so any window may be its own.
        ),
        key=("id",),
        grain="one row per version of an e-mail in SendGrid's activity feed",
        personal=("subject",),
    ),
    SourceEntity(
        source="sendgrid",
        name="stats",
        read=Rest(
            path="/v3/stats",
            records=None,
            paging="offset",
            api=API,
            since="start_date",
            until="end_date",
            time_format="date",
            until_is_inclusive=True,
            page_size=500,
            # A day's numbers are not final when it ends.
            lookback=timedelta(days=3),
            id_fields=("date",),
            parameters={"aggregated_by": "day"},
            recorded_at="date",
            event_time="date",
            history=timedelta(days=1095),
        ),
        key=("id",),
        grain="one row per version of a day's e-mail statistics",
        partition=Partition("date", "day"),
    ),
    _suppressions("bounces", "one row per address that SendGrid found not to exist"),
    _suppressions("blocks", "one row per address whose server refused a message for a reason that may pass"),
    _suppressions("spam_reports", "one row per recipient who called a message spam"),
    _suppressions("unsubscribes", "one row per recipient who wants no more e-mail"),
)

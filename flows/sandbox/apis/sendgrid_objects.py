"""Whole SendGrid objects from the few fields that matter: what generator and tests put into the store.

Message times are ISO 8601 with Z, all others unix seconds.
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

STATS_METRICS = (
    "blocks",
    "bounce_drops",
    "bounces",
    "clicks",
    "deferred",
    "delivered",
    "invalid_emails",
    "opens",
    "processed",
    "requests",
    "spam_report_drops",
    "spam_reports",
    "unique_clicks",
    "unique_opens",
    "unsubscribe_drops",
    "unsubscribes",
)


def message(
    *,
    msg_id: str,
    to_email: str,
    subject: str,
    last_event_time: str,
    status: str = "delivered",
    opens_count: int = 0,
    clicks_count: int = 0,
    from_email: str = "news@shop.example",
) -> Object:
    """An e-mail of the activity feed; `status` is processed, delivered or not_delivered."""
    return {
        "from_email": from_email,
        "msg_id": msg_id,
        "subject": subject,
        "to_email": to_email,
        "status": status,
        "opens_count": opens_count,
        "clicks_count": clicks_count,
        "last_event_time": last_event_time,
    }


def stats(*, date: str, **metrics: int) -> Object:
    """A day of global statistics; metrics that are not given are 0. Raises KeyError for an unknown metric."""
    unknown = set(metrics) - set(STATS_METRICS)
    if unknown:
        raise KeyError(f"SendGrid has no metric {sorted(unknown)[0]}")
    return {"date": date, "stats": [{"metrics": {name: metrics.get(name, 0) for name in STATS_METRICS}}]}


def bounce(*, email: str, created: int, reason: str, status: str = "5.1.1") -> Object:
    """An address that does not exist; also the shape of a block (a refusal that may pass)."""
    return {"created": created, "email": email, "reason": reason, "status": status}


def spam_report(*, email: str, created: int, ip: str) -> Object:
    """A recipient called a message spam; `ip` is the address it was sent from."""
    return {"created": created, "email": email, "ip": ip}


def unsubscribe(*, email: str, created: int) -> Object:
    """A recipient wants no more e-mail."""
    return {"created": created, "email": email}

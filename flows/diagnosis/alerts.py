"""Who is told when something is wrong: the file of ANALYTICS_ALERTS. No message is sent."""

from __future__ import annotations

from flows.alerting.routes import AlertsError, routes
from flows.diagnosis import Finding
from flows.settings import Settings

_SUBJECT = "alerts"


def channels(settings: Settings) -> list[Finding]:
    """Whether the file can be used, and each of its channels as far as can be seen without a message."""
    try:
        known = routes(settings)
    except AlertsError as error:
        return [Finding(_SUBJECT, False, str(error), "Until then no incident is opened, and nobody is told.")]
    broken = [channel for channel in known.channels.values() if channel.problem]
    if broken:
        advice = "Until then this channel takes no message; the others do."
        return [Finding(f"{_SUBJECT}: {one.name}", False, one.problem, advice) for one in broken]
    if not known.channels:
        return [Finding(_SUBJECT, True, "no channel is declared: incidents are kept, and nobody is told")]
    names = ", ".join(known.channels)
    return [Finding(_SUBJECT, True, f"{names} (`python -m flows alerts test` sends each a message)")]

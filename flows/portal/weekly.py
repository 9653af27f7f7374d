"""The weekly report: people, money and the pipeline in the last whole week, as one e-mail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.alerts import send_news
from flows.portal.reading import Result, reading
from flows.portal.site import environment
from flows.services import Services


@dataclass(frozen=True)
class Report:
    """The report for e-mail, and in words for channels that show no HTML."""

    subject: str
    html: str
    text: str
    results: Mapping[str, Result]


def render(services: Services) -> Report:
    """The report of the last whole week, Monday to Sunday, UTC."""
    with reading(services) as moment:
        found = moment.page("weekly")
        as_of = f"{moment.as_of:%Y-%m-%dT%H:%M:%SZ}"
    week, people = found["week"], found["people"]
    subject = f"User analytics, {week.value('first_day')} to {week.value('last_day')}"
    lead = _lead(found["incidents_counted"], found["runs"])
    html = environment().get_template("weekly.html").render(subject=subject, lead=lead, as_of=as_of, **found)
    lines = [lead]
    if people.value("events") is not None:
        lines.append(f"{people.value('active_users')} active users a day, {people.value('events'):,} events.")
    lines += [
        f"{row['currency']}: {row['orders']:,} orders, {row['revenue']}"
        for row in found["money"]
        if row["revenue"]
    ]
    return Report(subject, html, "\n".join(lines), found)


def _lead(incidents: Result, runs: Result) -> str:
    """How the week was, in a line or two."""
    counted, ran = next(iter(incidents)), next(iter(runs))
    said = [
        f"Incidents: {counted['incidents']}, of them {counted['critical']} critical, "
        f"{counted['still_open']} still open."
        if counted["incidents"]
        else "A quiet week: no incident."
    ]
    if ran["failed"]:
        said.append(f"{ran['failed']} of {ran['runs']} runs failed.")
    if ran["not_started"]:
        said.append(f"{ran['not_started']} of {ran['runs']} runs did not start.")
    return " ".join(said)


def deliver(services: Services, report: Report) -> list[str]:
    """Tell it to everybody who is told of `info`, once for its week; returns the channels. It goes as
    messages do: what a channel does not take now waits and is tried again, and a channel that fails is told
    of itself.
    """
    return send_news(services, report.subject, report.text, report.html, occasion=report.subject)

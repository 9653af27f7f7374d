"""The weekly report: people, money and the pipeline in the last whole week, as one e-mail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.alerting.delivery import Message, NotSent, send
from flows.alerting.routes import routes
from flows.alerting.words import scrubbed
from flows.errors import FlowsError
from flows.portal.reading import Result, reading
from flows.portal.site import environment
from flows.services import Services


class NotDelivered(FlowsError):
    """A channel did not take the report; the message names it and why."""

    exit_code = 1


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
    week, people, runs = found["week"], found["people"], found["runs"]
    subject = f"User analytics, {week.value('first_day')} to {week.value('last_day')}"
    bad = [row for row in found["incidents"] if row["severity"] == "critical"]
    still_open = [row for row in found["incidents"] if row["resolved_at"] is None]
    lead = (
        f"Incidents: {len(found['incidents'])}, of them {len(bad)} critical, {len(still_open)} still open."
        if found["incidents"].rows
        else "A quiet week: no incident."
    )
    if runs.value("failed"):
        lead += f" {runs.value('failed')} of {runs.value('runs')} runs failed."
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


def deliver(services: Services, report: Report) -> list[str]:
    """Send it to everybody who is told of `info`; returns the channels. Raises NotDelivered once all were
    tried.
    """
    known = routes(services.settings)
    hidden = [*services.settings.secrets(), *known.secrets()]
    message = Message(
        title=report.subject,
        body=report.text,
        severity="info",
        kind="info",
        incident_id=None,
        created_at=services.settings.now(),
        html=report.html,
    )
    problems = {}
    names = known.to("info")
    for name in names:
        try:
            send(known.channels[name], message)
        except NotSent as error:
            problems[name] = scrubbed(str(error), hidden)
    if problems:
        told = "; ".join(f"{name}: {reason}" for name, reason in problems.items())
        raise NotDelivered(
            f"The weekly report did not reach {told}. Correct the channel in the file of ANALYTICS_ALERTS."
        )
    return names

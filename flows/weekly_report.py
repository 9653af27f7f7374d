"""The weekly report, as a flow: its deployment is `weekly-report`."""

from __future__ import annotations

from prefect import flow

from flows.alerting.made_good import noted
from flows.batch import run_name
from flows.portal import weekly
from flows.services import open_services


# Who has got it does not get it again.
@flow(
    name="weekly_report",
    flow_run_name=run_name,
    timeout_seconds=600,
    retries=2,
    retry_delay_seconds=300,
    result_serializer="json",
)
def weekly_report() -> dict[str, object]:
    """Send how the last whole week was, to everybody who is told of `info` (docs/alerts.md)."""
    services = open_services()
    with noted(services, "weekly_report"):
        report = weekly.render(services)
        channels = weekly.deliver(services, report)
    return {"subject": report.subject, "channels": channels}

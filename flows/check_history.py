"""What no run can see, for it would have to look through all history: each night, by a deployment."""

from __future__ import annotations

from prefect import flow

import quality
from flows.alerting.made_good import noted
from flows.batch import run_name
from flows.build import guard
from flows.errors import FlowsError
from flows.hung import HOUR
from flows.services import Services, open_services
from flows.stores.warehouse_errors import readable_errors
from quality import CheckResult
from quality.published import check_published
from transforms import registry
from transforms.contract import Rule, Table


class HistoryBroken(FlowsError):
    """What is published breaks a rule of all history; the message has one line for each rule."""

    exit_code = 1


# A second try would find the same; while the warehouse is away the next night looks at all of it again.
@flow(
    name="check_history",
    flow_run_name=run_name,
    timeout_seconds=2 * HOUR,
    retries=0,
    result_serializer="json",
)
def check_history() -> dict[str, int]:
    """Hold what is published to the rules that look through all history; returns rule → rows that break it.

    Raises HistoryBroken when one fails that is critical.
    """
    services = open_services()
    with noted(services, "check_history"):
        results = check(services)
        if broken := [result.message for result in results if result.is_failure]:
            raise HistoryBroken("\n".join(broken))
    return {f"{result.table}.{result.rule}": result.failing_rows for result in results}


def check(services: Services) -> list[CheckResult]:
    """The same outside of Prefect. The results are in ops.check_result, where the monitor reads them."""
    tables = [table for table in registry.build_order() if history_rules(table)]
    now = services.settings.now()
    with readable_errors():
        results = check_published(services.settings.require("warehouse_dsn"), tables, now, history_rules)
    with services.warehouse.connect() as connection, connection.transaction():
        guard.record(connection, f"check-history-{now:%Y%m%dT%H%M%S}", results, now)
    return results


def history_rules(table: Table) -> list[Rule]:
    """The scheduled rules that hold at any moment. Those that compare tables hold between two runs, and while
    no stream writes: somebody has to know that who asks (`check --all-history`).
    """
    return [rule for rule in quality.scheduled_rules(table) if not quality.requires([rule], table.name)]

"""One look: measured, kept, told. The command and the deployment both take it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from flows import sla
from flows.alerting import delivery
from flows.alerting.routes import AlertsError
from flows.alerts import send_alert
from flows.metrics import monitor as numbers
from flows.monitoring.health import check_pipeline_health, record
from flows.monitoring.storage import WAREHOUSE
from flows.monitoring.verdict import FROM_BEST, State, Verdict
from flows.services import Services, open_services
from flows.stores.warehouse_errors import WarehouseError

_ORDER = FROM_BEST[::-1]


def look(services: Services) -> Sequence[Verdict]:
    """Measure every signal, keep the verdicts, hand them to the alerts, leave the numbers for Prometheus;
    returns the verdicts.

    While the warehouse is away nothing is kept, and the alerts tell that. Raises AlertsError for a file of
    routes that can't be used: then the numbers alone tell of it; and WarehouseError, once all is told, where
    the warehouse answers and does not keep the verdicts.
    """
    begun = time.monotonic()
    verdicts = check_pipeline_health(services)
    refused: WarehouseError | None = None
    try:
        with services.warehouse.connect() as connection:
            now = services.settings.now()
            verdicts = record(connection, [*verdicts, *sla.burn_verdicts(connection, now)], now)
    except WarehouseError as error:
        if not is_away(verdicts):  # otherwise one of them says so, and so do the alerts
            refused = error
    try:
        send_alert(services, verdicts)
    except WarehouseError as error:
        print(str(error), file=sys.stderr)
    except AlertsError as error:
        verdicts = [*verdicts, delivery.nobody_is_told(error, services.settings.now())]
        raise
    finally:
        numbers.write(services, verdicts, time.monotonic() - begun)
    if refused is not None:
        raise refused
    return verdicts


def is_away(verdicts: Sequence[Verdict]) -> bool:
    """Whether the warehouse could not be asked."""
    return any(verdict.signal == WAREHOUSE and verdict.state is not State.OK for verdict in verdicts)


def lines(verdicts: Sequence[Verdict], *, everything: bool = False) -> list[str]:
    """For people: what is not well, the worst first, each with what to do; then each signal in a line."""
    found = []
    for verdict in sorted(verdicts, key=lambda one: _ORDER.index(one.state)):
        if verdict.state is State.OK and not everything:
            continue
        since = f"  since {verdict.since:%Y-%m-%d %H:%M} UTC" if verdict.since else ""
        found.append(
            f"{verdict.state.value.upper():<8}  {verdict.signal}  {verdict.subject}{_figures(verdict)}{since}"
        )
        if verdict.state is not State.OK:
            found += [f"          {text}" for text in (verdict.message, verdict.action) if text]
    found += [""] if found else []
    width = max((len(verdict.signal) for verdict in verdicts), default=0)
    counts: dict[str, Counter[State]] = {}
    for verdict in verdicts:
        counts.setdefault(verdict.signal, Counter())[verdict.state] += 1
    for signal, states in counts.items():
        told = ", ".join(f"{states[state]} {state.value}" for state in _ORDER if states[state])
        found.append(f"{signal:<{width}}  {told}")
    return found


def document(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """For programs: every verdict as JSON values."""
    return [
        {
            "signal": verdict.signal,
            "subject": verdict.subject,
            "state": verdict.state.value,
            "value": verdict.value,
            "limit": verdict.limit,
            "unit": verdict.unit,
            "since": verdict.since.isoformat() if verdict.since else None,
            "measured_at": verdict.measured_at.isoformat(),
            "message": verdict.message,
            "action": verdict.action,
            "observed": dict(verdict.observed),
        }
        for verdict in verdicts
    ]


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows monitor`: exit code 1 when something is not well, 2 when the warehouse is away."""
    verdicts = look(open_services())
    if arguments.json:
        print(json.dumps(document(verdicts), indent=2))
    else:
        print("\n".join(lines(verdicts, everything=arguments.all)))
    if is_away(verdicts):
        return 2
    return 1 if any(verdict.state is not State.OK for verdict in verdicts) else 0


def _figures(verdict: Verdict) -> str:
    if verdict.value is None:
        return ""
    limit = "" if verdict.limit is None else f" (limit {_figure(verdict.limit, verdict.unit)})"
    return f"  {_figure(verdict.value, verdict.unit)}{limit}"


def _figure(value: float, unit: str) -> str:
    if unit == "ratio":
        return f"{value:.1%}"
    if unit == "bytes":
        return f"{value / 1e6:,.1f} MB"
    digits = 0 if value == int(value) or abs(value) >= 100 else 2
    return f"{value:,.{digits}f} {unit}".rstrip()

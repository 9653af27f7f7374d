"""`python -m flows alerts test`: whether each channel takes a message, now."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime

from flows.alerting import delivery, words
from flows.alerting.delivery import Message, NotSent
from flows.alerting.routes import AlertsError, Routes, routes
from flows.services import Services
from flows.stores.warehouse_errors import WarehouseError

_TITLE = "TEST: this channel takes messages of the warehouse"
_BODY = "Somebody asked for this with `python -m flows alerts test`; nothing is wrong, and nothing is to do."


def command(arguments: argparse.Namespace) -> int:
    """Send a message to each channel, or to these; exit 1 when one does not take it."""
    from flows.services import open_services

    services = open_services()
    known = routes(services.settings)
    names = arguments.channel or list(known.channels)
    for name in names:
        if name not in known.channels:
            declared = ", ".join(known.channels) or "none is declared"
            raise AlertsError(f"'{name}' is no channel in the file of ANALYTICS_ALERTS ({declared}).")
    if not names:
        print("No channel is declared: nobody is told. docs/alerts.md says what ANALYTICS_ALERTS names.")
        return 0
    problems = try_out(services, known, names)
    for name, problem in problems.items():
        print(f"{name}: takes no message: {problem}" if problem else f"{name}: took a message")
    return 1 if any(problems.values()) else 0


def try_out(services: Services, known: Routes, names: Sequence[str]) -> dict[str, str]:
    """Channel → why it did not take a message; empty where it did. What waits for one that did is sent now,
    and the incident about it ends with the next look of the monitor. Needs no warehouse.
    """
    now = services.settings.now()
    hidden = [*services.settings.secrets(), *known.secrets()]
    problems = {}
    for name in names:
        try:
            delivery.send(known.channels[name], Message(_TITLE, _BODY, "info", "info", None, now))
        except NotSent as error:
            problems[name] = words.scrubbed(str(error), hidden)
        else:
            problems[name] = ""
    well = [name for name, problem in problems.items() if not problem]
    try:
        if well:
            _go_on(services, known, well, now, hidden)
    except WarehouseError as error:
        print(f"What waits for them could not be sent: {error}", file=sys.stderr)
    return problems


def _go_on(
    services: Services, known: Routes, well: Sequence[str], now: datetime, hidden: Sequence[str]
) -> None:
    """How a channel is goes by its last message, and this was it."""
    with services.warehouse.connect() as connection:
        for name in well:
            connection.execute(
                "insert into ops.notification "
                "(channel, kind, severity, title, body, created_at, tried_at, sent_at, tries) "
                "values (%(name)s, 'info', 'info', %(title)s, %(body)s, %(now)s, %(now)s, %(now)s, 1)",
                {"name": name, "title": _TITLE, "body": _BODY, "now": now},
            )
            delivery.send_what_waits(connection, name, now)
        delivery.deliver(connection, known, now, hidden)

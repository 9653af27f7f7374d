"""Files for node_exporter's textfile collector: the numbers of what ends, and so cannot be asked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from flows.services import Services

_log = logging.getLogger("flows.metrics")


def leave(services: Services, name: str, collector: Callable[[], Any]) -> None:
    """Write `analytics_<name>.prom` into the folder of ANALYTICS_METRICS_FOLDER, whole or not at all; nothing
    without that setting. Never raises: what is told of is what it is.
    """
    folder = services.settings.metrics_folder
    if folder is None:
        return
    try:
        from prometheus_client import CollectorRegistry, write_to_textfile

        registry = CollectorRegistry()
        registry.register(collector())
        folder.mkdir(parents=True, exist_ok=True)
        write_to_textfile(str(folder / f"analytics_{name}.prom"), registry)
    except Exception as error:  # noqa: BLE001 - numbers about something must not change how it ended
        _log.warning("The metrics could not be written to %s: %s", folder, error)

"""Landing the tables' changes as one run of a process that dies at a failpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from flows.change_landing import land_changes
from flows.services import open_services
from tests import children
from tests.flows.extract.told import declared


def dies(environment: Mapping[str, str], failpoint: str, passes: int, tables: Sequence[str]) -> bool:
    """Whether it died there; False when it landed everything without getting there."""
    return children.dies(failpoint, _land, tables, passes=passes, environment=environment)


def _land(tables: Sequence[str]) -> None:
    services = open_services()
    land_changes(services, [declared(table, "cdc") for table in tables], os.urandom(4).hex())
    services.lake.close()

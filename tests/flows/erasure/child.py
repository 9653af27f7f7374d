"""An erasure, as the command does it."""

from __future__ import annotations

import io

from flows.erasure.erasing import Erased, erase
from flows.progress import Progress
from tests.flows import kill_child
from tests.flows.kill_child import Place


def play(place: Place, *users: int, reason: str = "") -> Erased:
    """Erase them."""
    services = kill_child.services(place)
    with services.lake, kill_child.without_audit(), Progress("erase", io.StringIO()) as progress:
        services.lake.begin_session()
        return erase(services, users, reason, "erase", progress)

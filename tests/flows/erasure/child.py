"""An erasure in a process of its own, that may be killed at a failpoint: `child.py PLACE NAME`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence

from flows import failpoints
from flows.erasure.erasing import Erased, erase
from flows.progress import Progress
from tests.flows import kill_child
from tests.flows.kill_child import Place


def play(place: Place, *users: int, reason: str = "") -> Erased:
    """Erase them, as the command does."""
    services = kill_child.services(place)
    with services.lake, kill_child.without_audit(), Progress("erase", io.StringIO()) as progress:
        services.lake.begin_session()
        return erase(services, users, reason, "erase", progress)


def main(words: Sequence[str]) -> None:
    given, name, *users = words
    failpoints.arm(name)
    play(Place(**json.loads(given)), *map(int, users))


if __name__ == "__main__":
    main(sys.argv[1:])

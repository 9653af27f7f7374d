"""Settings whose clock a test moves, the world's and the machine's alike."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flows.settings import Settings


class At(Settings):
    """It is what stands in `moment`, a list of one, whoever looks when: `At(moment=[NOW], …)`."""

    moment: Any
    """Not `list[datetime]`: a setting of that type would be a copy of the test's list."""

    def now(self) -> datetime:
        found: datetime = self.moment[0]
        return found

    def machine_time(self) -> float:
        return self.now().timestamp()

"""Rate limits with the headers that tell a client about them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field


@dataclass
class RateLimit:
    """At most `requests` in each window of `seconds`, counted per path."""

    requests: int
    seconds: float
    _windows: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take(self, path: str) -> tuple[bool, dict[str, str]]:
        """Count one request; whether it may pass, and the headers that say so."""
        now = time.time()
        window = int(now // self.seconds)
        known, used = self._windows.get(path, (window, 0))
        used = used + 1 if known == window else 1
        self._windows[path] = (window, used)
        reset = (window + 1) * self.seconds
        headers = {
            "X-RateLimit-Limit": str(self.requests),
            "X-RateLimit-Remaining": str(max(0, self.requests - used)),
            "X-RateLimit-Reset": str(math.ceil(reset)),
        }
        if used > self.requests:
            headers["Retry-After"] = str(max(1, math.ceil(reset - now)))
        return used <= self.requests, headers

"""Which Kafka a broker is.

A broker does not tell its version, and its client has no question for it: it tells which requests it takes,
in which forms, and the client logs that when it connects.
"""

from __future__ import annotations

import logging
import re

from flows.diagnosis import Finding

_REQUEST = re.compile(r"ApiKey \S+ \((\d+)\) Versions (\d+)\.\.(\d+)")
_FETCH, _TXN_OFFSET_COMMIT, _DESCRIBE_CLUSTER = 1, 28, 60
_LEAST = "2.5"
"""Takes offsets in a transaction together with the member that read them."""


class BrokerVersion(logging.Handler):
    """Reads the log of one client."""

    def __init__(self) -> None:
        super().__init__()
        self._forms: dict[int, tuple[int, int]] = {}
        """Request → the oldest and the newest form of it that a broker takes."""
        self.log = logging.Logger("doctor")  # one of its own: nobody else hears of it
        self.log.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Note what a line says of a request."""
        if (found := _REQUEST.search(record.getMessage())) is not None:
            request, oldest, newest = map(int, found.groups())
            self._forms[request] = (oldest, newest)

    def finding(self) -> Finding:
        """The newest Kafka that it surely is."""
        subject = "Kafka: version"
        if _FETCH not in self._forms:
            return Finding(subject, True, "the broker does not tell what it takes")
        advice = f"Use Kafka {_LEAST} or newer: the stream commits what it tells in transactions."
        if self._forms[_FETCH][0] >= 4:
            return Finding(subject, True, "Kafka 4.0 or newer")
        if _DESCRIBE_CLUSTER in self._forms:
            return Finding(subject, True, "Kafka 2.8 or newer")
        if self._forms.get(_TXN_OFFSET_COMMIT, (0, 0))[1] >= 3:
            return Finding(subject, True, f"Kafka {_LEAST} or newer")
        return Finding(subject, False, f"older than Kafka {_LEAST}", advice)

"""What apprise says, kept from the log: it quotes addresses, which hold passwords and tokens."""

from __future__ import annotations

import logging
import threading
from functools import cache

_RESPONSE = "Response Details"
"""What a server answered, whatever that is: its status says more, and stands in a line before."""


class Said(logging.Handler):
    """What apprise logs in this block and thread: its only way to say why a message was not sent."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._lines: list[tuple[int, str]] = []
        self._thread = threading.get_ident()

    @property
    def last(self) -> str:
        """The weightiest line, the last of those."""
        said = [(level, text) for level, text in self._lines if not text.startswith(_RESPONSE)]
        worst = max((level for level, _ in said), default=0)
        reasons = [text for _, text in said if "rror" in text or "xception" in text]
        lines = [text for level, text in said if level == worst]
        return " ".join((reasons or lines or [""])[-1].split())[:300].rstrip(".")

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._lines.append((record.levelno, record.getMessage()))

    def __enter__(self) -> Said:
        _hushed().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        _hushed().removeHandler(self)


@cache
def _hushed() -> logging.Logger:
    """Apprise's logger, silent from now on: a thread that nobody waits for any more says something too."""
    logger = logging.getLogger("apprise")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    return logger

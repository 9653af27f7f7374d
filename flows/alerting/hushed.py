"""What apprise says, kept from the log: it quotes addresses, which hold passwords and tokens."""

from __future__ import annotations

import logging


class Said(logging.Handler):
    """What apprise logs in this block: its only way to say why a message was not sent."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._lines: list[tuple[int, str]] = []

    @property
    def last(self) -> str:
        """The weightiest line, the last of those."""
        worst = max((level for level, _ in self._lines), default=0)
        reasons = [text for _, text in self._lines if "rror" in text or "xception" in text]
        lines = [text for level, text in self._lines if level == worst]
        return (reasons or lines or [""])[-1].strip()[:300].rstrip(".")

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append((record.levelno, record.getMessage()))

    def __enter__(self) -> Said:
        self._logger = logging.getLogger("apprise")
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before

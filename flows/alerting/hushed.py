"""What apprise says, kept from the log: it quotes addresses, which hold passwords and tokens."""

from __future__ import annotations

import logging
import threading

_LOGGER = logging.getLogger("apprise")
_RESPONSE = "Response Details"
"""What a server answered, whatever that is: its status says more, and stands in a line before."""

_alone = threading.Lock()
_before: list[tuple[int, bool]] = []
_listening: list[Said] = []
"""Those whose block has not ended, in every thread: one that nobody waits for any more says something too."""


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
        with _alone:
            if not _listening:
                _before.append((_LOGGER.level, _LOGGER.propagate))
                _LOGGER.setLevel(logging.DEBUG)
                _LOGGER.propagate = False
            _listening.append(self)
            _LOGGER.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        with _alone:
            _LOGGER.removeHandler(self)
            _listening.remove(self)
            if not _listening:
                _LOGGER.level, _LOGGER.propagate = _before.pop()

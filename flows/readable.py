"""Foreign words as they may be kept and shown: PostgreSQL takes no NUL and no half of a character, and what
commands a terminal, or the reading direction, is no part of a message.
"""

from __future__ import annotations

import unicodedata

_COMMANDS = ("Cc", "Cf", "Cs")
"""Unicode's categories of control, format and surrogate characters."""


def readable(text: str) -> str:
    """The text with those written out (`\\x1b`), but for the ends of lines and tabs."""
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode()
        if char not in "\n\t" and unicodedata.category(char) in _COMMANDS
        else char
        for char in text.replace("\r\n", "\n")
    )

"""Casts that change values without a word, where nobody has written them."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)")
_FLOATS = ("FLOAT", "DOUBLE")
_DECIMAL = re.compile(r"DECIMAL\(\d+,\s*(\d+)\)")


def lost(given: str, declared: str) -> str:
    """What values of a DuckDB type lose as those of another; '' where they keep it, or a cast would fail."""
    decimals, left = _decimals(given), _decimals(declared)
    if decimals is not None and left is not None and decimals > left and declared not in _FLOATS:
        return "their decimals"
    if given.startswith("TIMESTAMP") and declared == "DATE":
        return "the time of day"
    return ""


def _decimals(kind: str) -> float | None:
    """How many a number has, None of what is none. Of a float some: as a DECIMAL it is rounded anyway."""
    if _WHOLE.fullmatch(kind):
        return 0
    if kind in _FLOATS:
        return 0.5
    found = _DECIMAL.fullmatch(kind)
    return int(found[1]) if found else None

"""A number of things as people say it."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """`1 row`, `0 rows`, `1,200 rows`. `thing` is one of them, in a word that takes an s."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"

"""Which of PostgreSQL's types hold what another one holds; they are spelled as its catalog spells them."""

from __future__ import annotations

import re

_VARCHAR = re.compile(r"character varying\((\d+)\)")
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")


def widens(before: str, after: str) -> bool:
    """Whether a column can change from one type to the other without its rows being written anew."""
    if before == after:
        return True
    old_length, new_length = _VARCHAR.fullmatch(before), _VARCHAR.fullmatch(after)
    if old_length and (after == "text" or (new_length and int(new_length[1]) >= int(old_length[1]))):
        return True
    old, new = _NUMERIC.fullmatch(before), _NUMERIC.fullmatch(after)
    return bool(old and (after == "numeric" or (new and old[2] == new[2] and int(new[1]) >= int(old[1]))))


def holds(before: str, after: str) -> bool:
    """Whether every value of the one type is a value of the other, so that no reader loses anything."""
    integers = ["smallint", "integer", "bigint", "numeric"]
    if before in integers and after in integers:
        return integers.index(before) <= integers.index(after)
    old, new = _NUMERIC.fullmatch(before), _NUMERIC.fullmatch(after)
    if old and new:
        whole = int(new[1]) - int(new[2]) >= int(old[1]) - int(old[2])
        return whole and int(new[2]) >= int(old[2])
    return widens(before, after) or (before, after) == ("real", "double precision")

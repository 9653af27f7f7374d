"""What a dump lists, and what of it comes back: all that stands in our schemas. The rights come after it,
since they may name roles that the server does not have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from flows.recovery import programs
from warehouse_ddl.statements import LASTING

_OURS = f"(?:{'|'.join(LASTING)})"
_ENTRY = re.compile(
    r"\d+; \d+ \d+ "
    rf"(?:SCHEMA - {_OURS}|(?P<of_schema>[A-Z]+) - SCHEMA {_OURS}|(?P<kind>[A-Z]+(?: [A-Z]+)*) {_OURS}) "
)
"""A line of `pg_restore --list`: number, catalog, object, kind, schema (a dash for a schema itself), name,
owner."""
_RIGHTS = {"ACL", "DEFAULT ACL"}
_PUBLISHES = "PUBLICATION"
"""A publication belongs to the database; what of ours is in one is no part of ours."""


@dataclass(frozen=True)
class Contents:
    """What of a dump comes back."""

    entries: Path
    """A list for `pg_restore --use-list`: what is ours, without rights."""
    rights: tuple[str, ...]
    """The statements that give rights on it, each in one line, in their order."""


def read(place: Path, dump: Path, work: Path) -> Contents:
    """What of a dump is ours, whatever else it holds: an earlier version dumped the whole database. `place`:
    where PostgreSQL's programs are; `work`: where the lists may stand.

    Raises ProgramError for a dump that they can't read.
    """
    everything, entries, rights = (
        work / name for name in ("contents.all", "contents.ours", "contents.rights")
    )
    programs.run(place / "pg_restore", ["--list", f"--file={everything}", dump])
    lines: dict[bool, list[str]] = {False: [], True: []}
    for line in everything.read_text(encoding="utf-8", errors="replace").splitlines():
        if (found := _ENTRY.match(line)) and not (found["kind"] or "").startswith(_PUBLISHES):
            lines[(found["of_schema"] or found["kind"]) in _RIGHTS].append(line)
    entries.write_text("\n".join([*lines[False], ""]), encoding="utf-8")
    if not lines[True]:
        return Contents(entries, ())
    chosen = work / "contents.chosen"
    chosen.write_text("\n".join([*lines[True], ""]), encoding="utf-8")
    programs.run(place / "pg_restore", [f"--use-list={chosen}", f"--file={rights}", dump])
    text = rights.read_text(encoding="utf-8")
    given = ("GRANT ", "REVOKE ", "ALTER DEFAULT PRIVILEGES ")
    return Contents(entries, tuple(line for line in text.splitlines() if line.startswith(given)))

"""What people read of backups."""

from __future__ import annotations

import argparse
import json
from typing import Any

from flows.recovery import identity
from flows.recovery.kept import Unreadable
from flows.recovery.physical.shelf import Copy, open_copies
from flows.recovery.physical.taking import TakenCopy
from flows.recovery.taking import Taken, open_vault
from flows.recovery.vault import Backup
from flows.services import open_services


def text_of(taken: Taken) -> str:
    """What a backup ends with."""
    lines = [
        f"Backup {taken.backup.id}: {_what(taken.backup)}, in {taken.seconds:.1f} s.",
        f"It is in {taken.backup.folder}; `python -m flows restore --verify` rehearses the way back.",
    ]
    if taken.others:
        lines.append(
            f"Not in it: what others have in the schemas {', '.join(taken.others)} of that database "
            "(docs/recovery.md)."
        )
    if taken.expired:
        lines.append(f"Expired: {', '.join(taken.expired)}, and {taken.raw_expired:,} raw files with them.")
    return "\n".join(lines)


def text_of_copy(taken: TakenCopy) -> str:
    """What a copy of the server's files ends with."""
    copy = taken.copy
    because = f" Full, because {copy.because}." if copy.because else ""
    lines = [
        f"Physical backup {copy.id}: {_what(copy)}, in {taken.seconds:.1f} s.{because}",
        f"It is in {copy.folder}; `python -m flows restore --physical DIR` puts the server together from it. "
        "The lake is not in it: that is for `python -m flows backup`.",
    ]
    if taken.expired:
        lines.append(f"Expired: {', '.join(taken.expired)}.")
    return "\n".join(lines)


def list_command(arguments: argparse.Namespace) -> int:
    """`python -m flows backup list`: the newest first, then what can't be read or put together any more; exit
    1 when there is none, or one of those.
    """
    services = open_services()
    vault, copies = open_vault(services), open_copies(services)
    dumps, unreadable = vault.look()
    copied, unreadable_too = copies.look()
    backups: list[Backup | Copy] = [*dumps, *copied]
    backups.sort(key=lambda backup: backup.taken_at, reverse=True)
    unreadable += unreadable_too
    broken = copies.broken()
    own = identity.of_settings(services.settings)
    if arguments.json:
        print(json.dumps([_listed(one) for one in (*backups, *unreadable)], indent=2))
    elif backups or unreadable:
        now = services.settings.now()
        for backup in backups:
            hours = (now - backup.taken_at).total_seconds() / 3600
            age = f"{hours:6.1f} hours old" if hours >= 0 else "of a time to come"
            print(f"{backup.id}  {age}  {_what(backup)}{_whose(backup, own)}")
        for one in unreadable:
            print(f"{one.id}  {one.problem}")
        for why in broken.values():
            print(why)
        besides = f", {len(unreadable)} can't be read" if unreadable else ""
        print(f"{len(backups)} in {vault.root}{besides}.")
    else:
        print(vault.none)
    return 0 if backups and not unreadable and not broken else 1


def _listed(backup: Backup | Copy | Unreadable) -> dict[str, Any]:
    if isinstance(backup, Unreadable):
        return {"backup": backup.id, "kind": "unreadable", "problem": backup.problem}
    of_both = {
        "backup": backup.id,
        "kind": _kind(backup),
        "taken_at": backup.taken_at.isoformat(),
        "bytes": backup.bytes,
        "sealed_for": backup.recipient,
        "warehouse": backup.warehouse,
    }
    if isinstance(backup, Copy):
        return {**of_both, "based_on": backup.based_on}
    return {**of_both, "rows": backup.rows, "sequence": backup.sequence}


def _kind(backup: Backup | Copy) -> str:
    if isinstance(backup, Copy):
        return "incremental" if backup.based_on else "full"
    return "dump"


def _whose(backup: Backup | Copy, own: str | None) -> str:
    """Said where it is not plain."""
    if identity.is_others(backup, own):
        return f", of another warehouse ({backup.warehouse})"
    return f", of warehouse {backup.warehouse}" if own is None and backup.warehouse else ""


def _what(backup: Backup | Copy) -> str:
    sealed = f", sealed for {backup.recipient[:12]}…" if backup.recipient else ""
    size = f"{backup.bytes / 1e6:,.1f} MB"
    if isinstance(backup, Copy):
        on = f" on {backup.based_on}" if backup.based_on else ""
        return f"{_kind(backup)} copy of the server{on}, {size}{sealed}"
    return (
        f"{backup.rows:,} rows of {len(backup.notes)} tables and leaves, {size}, "
        f"ledger at {backup.sequence:,}{sealed}"
    )

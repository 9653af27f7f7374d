"""What people read of backups."""

from __future__ import annotations

import argparse
import json

from flows.recovery.taking import Taken, open_vault
from flows.recovery.vault import Backup
from flows.services import open_services


def text_of(taken: Taken) -> str:
    """What a backup ends with."""
    lines = [
        f"Backup {taken.backup.id}: {_what(taken.backup)}, in {taken.seconds:.1f} s.",
        f"It is in {taken.backup.folder}; `python -m flows restore --verify` rehearses the way back.",
    ]
    if taken.expired:
        lines.append(f"Expired: {', '.join(taken.expired)}, and {taken.raw_expired:,} raw files with them.")
    return "\n".join(lines)


def list_command(arguments: argparse.Namespace) -> int:
    """`python -m flows backup list`: the newest first; exit 1 when there is none."""
    services = open_services()
    vault = open_vault(services)
    backups = vault.backups()
    if arguments.json:
        listed = [
            {
                "backup": backup.id,
                "taken_at": backup.taken_at.isoformat(),
                "rows": backup.rows,
                "bytes": backup.bytes,
                "sequence": backup.sequence,
                "sealed_for": backup.recipient,
            }
            for backup in backups
        ]
        print(json.dumps(listed, indent=2))
    elif backups:
        now = services.settings.now()
        for backup in backups:
            hours = (now - backup.taken_at).total_seconds() / 3600
            print(f"{backup.id}  {hours:6.1f} hours old  {_what(backup)}")
        print(f"{len(backups)} in {vault.root}.")
    else:
        print(f"There is no backup in {vault.root} yet: `python -m flows backup` takes one.")
    return 0 if backups else 1


def _what(backup: Backup) -> str:
    sealed = f", sealed for {backup.recipient[:12]}…" if backup.recipient else ""
    return (
        f"{backup.rows:,} rows of {len(backup.notes)} tables and leaves, {backup.bytes / 1e6:,.1f} MB, "
        f"ledger at {backup.sequence:,}{sealed}"
    )

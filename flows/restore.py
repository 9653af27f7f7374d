"""The way back: `python -m flows restore --verify|--into DSN|--lake DIR|--physical DIR`, the weekly drill."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows import setting_checks
from flows.alerting.made_good import noted
from flows.batch import run_name
from flows.durations import spoken
from flows.errors import FlowsError
from flows.hung import HOUR
from flows.progress import Progress
from flows.recovery import identity, raw_files
from flows.recovery.drill import Drill, DrillFailed
from flows.recovery.drill import drill as rehearse
from flows.recovery.physical.restoring import put_together
from flows.recovery.physical.shelf import open_copies
from flows.recovery.restoring import Left, occupied, refuse_to_clear, restore, workplace
from flows.recovery.taking import open_vault
from flows.recovery.vault import Backup, BackupError
from flows.recovery.whole import from_lake, replayed
from flows.services import Services, open_services
from flows.settings import load

_SHOWN = 20
"""Lines of a list; who needs the others finds them where its last line says."""


# What differs would differ again, after the same hours.
@flow(name="drill", flow_run_name=run_name, timeout_seconds=4 * HOUR, retries=0, result_serializer="json")
def drill(backup: str | None = None) -> dict[str, Any]:
    """Rehearse the restore of a backup; fails when it is not what is live.

    Args:
        backup: Its id, as `python -m flows backup list` shows it; without it the newest.
    """
    done = run_drill(backup)
    return {"backup": done.backup.id, "rto_seconds": done.rto_seconds, "rpo_seconds": done.rpo_seconds}


def run_drill(backup: str | None) -> Drill:
    """The same outside of Prefect. Raises DrillFailed naming what differs."""
    services = open_services()
    with noted(services, "drill"), services.lake, Progress("drill") as progress:
        done = rehearse(services, backup, progress)
        _refuse_different(done)
    return done


def _refuse_different(done: Drill) -> None:
    if not done.is_equal:
        shown = done.differences[:_SHOWN]
        more = (
            [f"… and {len(done.differences) - _SHOWN} more (ops.drill)."] if done.differences[_SHOWN:] else []
        )
        raise DrillFailed(
            "\n".join(
                [
                    f"The way back from backup {done.backup.id} does not lead to what is live:",
                    *shown,
                    *more,
                    "docs/recovery.md tells for each kind what to do.",
                ]
            )
        )


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows restore`."""
    if arguments.verify:
        print(_said(run_drill(arguments.backup)))
    elif arguments.into:
        print(_into(arguments.into, arguments.backup, replays=not arguments.no_replay, yes=arguments.yes))
    elif arguments.physical:
        print(_physical(arguments.physical, arguments.backup))
    else:
        print(_lake(arguments.lake, arguments.backup))
    return 0


def _said(done: Drill) -> str:
    streamed = (
        f" {len(done.streamed)} leaves that the stream writes into were left out." if done.streamed else ""
    )
    unshared = (
        f" Columns that live and the models of today do not share were left out ({len(done.unshared)}: "
        f"{', '.join(done.unshared[:3])}{', …' if done.unshared[3:] else ''}); the next run makes them equal."
        if done.unshared
        else ""
    )
    return (
        f"Equal: backup {done.backup.id} was restored, {done.replayed} partitions replayed from the lake, "
        f"{done.compared} tables and leaves compared.{streamed}{unshared}\n"
        f"RTO {done.rto_seconds:.1f} s; RPO 0 with the lake, {spoken(done.rpo_seconds or 0)} without it. "
        f"The drill took {done.seconds:.1f} s and stands in ops.drill."
    )


def _into(dsn: str, name: str | None, *, replays: bool, yes: bool) -> str:
    """Restore a backup into a database, and what came after from the lake.

    The target is refused when it has our schemas and nobody said `--yes`, when runs are at work in it, and
    when something of others hangs on what would be replaced. A backup that still has somebody who was erased
    is refused where the replay, which erases them again, is not wanted or has no lake.
    """
    began = time.perf_counter()
    try:
        setting_checks.database(dsn)
    except ValueError as error:
        raise BackupError(f"--into names no database: {error}. Nothing was changed.") from None
    services = Services(load(warehouse_dsn=dsn))
    vault = open_vault(services)
    backup = identity.find(vault, name, services)
    problems = vault.problems(backup)
    if problems:
        raise BackupError("\n".join([*problems, "Nothing was changed."]))
    with workplace(vault) as work:
        erased = raw_files.erased_since(vault, backup, services.lake.root, work)
    if erased and not (replays and any(services.lake.manifests())):
        raise BackupError(_still_there(backup, erased, services))
    if there := occupied(dsn):
        if not yes:
            raise BackupError(
                f"The target is not empty: it has the schemas {', '.join(there)}. Name an empty database, or "
                "run again with --yes to replace them; nothing was changed."
            )
        refuse_to_clear(dsn)
    with services.lake, Progress("restore") as progress, workplace(vault) as work:
        if replays:
            raw_files.bring_list(vault, backup, services.lake.root, work)
        left = restore(vault, backup, dsn, work, replaces=bool(there))
        progress.say(backup.id, f"{backup.rows:,} rows restored")
        lines = [f"Backup {backup.id} is restored."]
        if replays:
            try:
                lines = [f"Backup {backup.id} is restored. {replayed(from_lake(services, progress))}"]
            except FlowsError as error:
                if not erased:
                    raise
                raise BackupError(f"{error} {_readable(erased, 'that database')}") from error
    if erased:
        lines.append(f"{_users(erased)}, erased after it was taken, were erased from it again.")
    return "\n".join([*lines, *_rights(left), *_next(backup, began)])


def _rights(left: Sequence[Left]) -> list[str]:
    """What an administrator has to do for whoever read the warehouse besides our roles."""
    if not left:
        return []
    shown = [f"  {right.statement}  -- {right.because}" for right in left[:_SHOWN]]
    more = [f"  … and {len(left) - _SHOWN} more, which the same restore gives back once the roles are there."]
    return [
        f"Rights that could not be given back here ({len(left)}). Make the roles that are missing, then let "
        "an administrator run:",
        *shown,
        *(more if left[_SHOWN:] else []),
    ]


def _still_there(backup: Backup, erased: Sequence[int], services: Services) -> str:
    return (
        f"Backup {backup.id} still has {_users(erased)}, erased after it was taken, and only the replay from "
        f"the lake takes them out again. Restore without --no-replay beside a lake that has its manifests "
        f"({services.lake.root}; `restore --lake` fills an empty one), or from a later backup. Nothing was "
        "changed."
    )


def _readable(erased: Sequence[int], where: str) -> str:
    return (
        f"{_users(erased)}, erased after this backup was taken, can be read in {where} until "
        "`python -m flows rebuild --from-lake` has come to its end: let nobody read before."
    )


def _users(users: Sequence[int]) -> str:
    return f"User{'s' if users[1:] else ''} {', '.join(map(str, users))}"


def _next(backup: Backup, began: float) -> list[str]:
    return [
        f"It took {time.perf_counter() - began:.1f} s; the backup is of "
        f"{backup.taken_at:%Y-%m-%d %H:%M} UTC.",
        "Next: set ANALYTICS_WAREHOUSE_DSN to this database, then `python -m flows check` and "
        "`python -m flows`.",
    ]


def _lake(folder: Path, name: str | None) -> str:
    """Fill an empty lake with the raw files of a backup."""
    services = open_services()
    vault = open_vault(services)
    backup = identity.find(vault, name, services)
    target = folder.expanduser().absolute()
    with Progress("restore") as progress, workplace(vault) as work:
        count = raw_files.give_back(vault, backup, target, work, progress)
        erased = raw_files.erased_since(vault, backup, target, work)
    lines = [f"{count:,} raw files of backup {backup.id} are in {target}."]
    if erased:
        lines.append(_readable(erased, "these files"))
    lines.append(
        "Next: set ANALYTICS_LAKE to it, then `python -m flows rebuild --from-lake` and `python -m flows`, "
        "which makes the other layers and reads again what the sources have had since."
    )
    return "\n".join(lines)


def _physical(folder: Path, name: str | None) -> str:
    """Put a copy of the server together. It knows nothing of what came after it, and nobody is erased from
    it before it runs: who starts it is told whom it still has.
    """
    began = time.perf_counter()
    services = open_services()
    copies = open_copies(services)
    copy = identity.find(copies, name, services)
    target = folder.expanduser().absolute()
    with Progress("restore") as progress:
        put_together(copies, copy, target, progress)
        with workplace(copies) as work:
            erased = raw_files.erased_since(copies, copy, services.lake.root, work)
    lines = [
        f"Copy {copy.id} of the server is in {target}, verified. It took {time.perf_counter() - began:.1f} "
        f"s; the copy is of {copy.taken_at:%Y-%m-%d %H:%M} UTC."
    ]
    if erased:
        lines.append(_readable(erased, "it"))
    return "\n".join(
        [
            *lines,
            f"Next: give the folder to PostgreSQL's user (chown -R), start PostgreSQL "
            f"{copy.server_version // 10_000} on it (`pg_ctl -D {target} start`) and set "
            "ANALYTICS_WAREHOUSE_DSN to it. Then, before anybody reads, `python -m flows rebuild "
            "--from-lake`: it brings what came after from the lake and erases again who was erased. Then "
            "`python -m flows check` and `python -m flows`.",
        ]
    )

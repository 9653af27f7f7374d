"""The command line: `python -m flows` runs the batch; every other verb stands beside it.

Nothing heavy is imported here: `--help` must answer at once, so each verb imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from flows.arguments import Parser, add
from flows.terminal import end_with, hear_ctrl_c, is_ctrl_c, let_ctrl_c_end, say_anything, show_scrubbed
from flows.typed import count, port

_Command = Callable[[argparse.Namespace], int]


def _verb(path: str) -> _Command:
    """The function `module:name`, imported when it is called."""

    def call(arguments: argparse.Namespace) -> int:
        module, name = path.split(":")
        return int(getattr(importlib.import_module(module), name)(arguments))

    return call


def parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    top = Parser(
        prog="python -m flows",
        description="A user-analytics warehouse: land, model, check, publish. Without a verb: run the batch.",
    )
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    top.set_defaults(command=_verb("flows.commands:command"), select=None, yes=False)
    verbs = top.add_subparsers(title="verbs", metavar="[VERB]")

    run = add(verbs, "run", "the batch: land, rebuild what changed, publish (the default)")
    _selection(run)
    run.add_argument("--yes", action="store_true", help="agree to a change that destroys published columns")
    run.set_defaults(command=_verb("flows.commands:command"))

    plan = add(verbs, "plan", "what a run would rebuild, and why; changes nothing")
    plan.add_argument("--json", action="store_true", help="for programs")
    plan.set_defaults(command=_verb("flows.plan:command"))

    backfill = add(verbs, "backfill", "rebuild a range of days")
    backfill.add_argument("--from", dest="start", required=True, metavar="DAY", help="first day (UTC)")
    backfill.add_argument("--to", dest="end", required=True, metavar="DAY", help="the day after the last")
    _selection(backfill)
    backfill.set_defaults(command=_verb("flows.commands:backfill"))

    rebuild = add(verbs, "rebuild", "make tables right again whatever stands in them, from raw")
    rebuild.add_argument("table", nargs="*", help="this table; TABLE+ with what depends on it")
    rebuild.add_argument(
        "--as-of",
        metavar="TIME|LSN",
        help="as it was then, in a schema of its own, from the lake alone; without TABLE all tables",
    )
    rebuild.add_argument("--into", metavar="SCHEMA", help="name of that schema")
    rebuild.add_argument(
        "--from-lake",
        action="store_true",
        help="the ledger and all tables as the lake has them, where they were lost or are older or newer",
    )
    rebuild.set_defaults(command=_verb("flows.commands:rebuild"))

    replay = add(verbs, "replay", "rebuild what records of a topic touch, from raw or the broker")
    replay.add_argument("--topic", required=True, help="a declared topic, e.g. user_events")
    bound = "an offset, or when the broker got the record, as 2025-10-07T12:00"
    replay.add_argument("--from", dest="start", required=True, metavar="OFFSET|TIME", help=bound)
    replay.add_argument(
        "--to", dest="end", metavar="OFFSET|TIME", help="exclusive; default: all that was taken in"
    )
    replay.add_argument(
        "--partition", type=int, action="append", metavar="P", help="only this one; may be repeated"
    )
    replay.add_argument("--dry-run", action="store_true", help="only say what it would do")
    replay.set_defaults(command=_verb("flows.commands:replay"))

    stream = add(verbs, "stream", "take the event topics in as they come, until it is stopped")
    stream.add_argument("--until-idle", action="store_true", help="end when all that is there is taken in")
    stream.add_argument("--for", dest="seconds", metavar="TIME", help="end after 45s, 10m or 2h")
    stream.set_defaults(command=_verb("flows.stream:command"))

    places = add(verbs, "positions", "where a topic is read on, and what the broker has lost")
    places.add_argument("topic", metavar="TOPIC", help="a declared topic, e.g. user_events")
    places.add_argument(
        "--yes", action="store_true", help="accept what is lost, and read on from what is there"
    )
    places.set_defaults(command=_verb("flows.positions:command"))

    new = add(verbs, "new", "begin a table, or something to be read, with files that work")
    new.add_argument("name", metavar="NAME", help="mart_… (dim_, stg_, …), app.TABLE, events.TOPIC, API.LIST")
    new.add_argument(
        "--from",
        dest="upstreams",
        action="append",
        metavar="TABLE",
        help="what a table is made of; repeatable",
    )
    new.add_argument("--read", metavar="PLACE", help="SCHEMA.TABLE, topic or /path, where it is another")
    new.add_argument("--mode", choices=("cdc", "incremental", "snapshot"), help="how a table is read")
    new.add_argument(
        "--key",
        action="append",
        metavar="COLUMN",
        help="what tells rows (of a topic: events) apart; repeatable",
    )
    new.add_argument("--time", metavar="FIELD", help="of a topic: when it happened")
    new.set_defaults(command=_verb("flows.new.command:command"))

    check = add(verbs, "check", "run the rules on what is published; exit 1 when one fails")
    check.add_argument("table", nargs="*", help="only these tables")
    check.add_argument("--all-history", action="store_true", help="the scheduled rules too")
    check.add_argument("--stream", action="store_true", help="what the stream wrote, against the batch")
    check.add_argument(
        "--source", action="store_true", help="the application's tables against the lake, key by key"
    )
    check.set_defaults(command=_verb("flows.check:command"))

    doctor = add(verbs, "doctor", "ask every service whether it can be used, and say what to do")
    doctor.set_defaults(command=_verb("flows.doctor:command"))

    erase = add(verbs, "erase", "forget a person: warehouse, lake, dead letters; and prove it")
    erase.add_argument(
        "--user", type=int, required=True, action="append", metavar="ID", help="user_id; may be repeated"
    )
    erase.add_argument("--reason", default="", help="kept with the erasure; name nobody in it")
    erase.add_argument("--yes", action="store_true", help="don't ask")
    erase.set_defaults(command=_verb("flows.erase:command"))

    roles = add(verbs, "roles", "make the warehouse's roles and rights, and say who has which")
    roles.add_argument("--json", action="store_true", help="for programs")
    roles.set_defaults(command=_verb("flows.roles:command"))

    monitor = add(verbs, "monitor", "how the pipeline is now, and tell who is to be told")
    monitor.add_argument("--json", action="store_true", help="for programs: every verdict")
    monitor.add_argument("--all", action="store_true", help="what is well, too")
    monitor.set_defaults(command=_verb("flows.monitoring.look:command"))

    maintain = add(verbs, "maintain", "let go of raw past its retention, keep files and entries few")
    maintain.add_argument(
        "--drop", metavar="TABLE", help="instead: remove a table that no model or source declares any more"
    )
    maintain.add_argument("--yes", action="store_true", help="with --drop: from warehouse and lake, for good")
    maintain.set_defaults(command=_verb("flows.maintain:command"))

    backup = add(verbs, "backup", "dump the warehouse, with the lake's manifests and raw files")
    backup.add_argument(
        "--physical",
        action="store_true",
        help="a copy of the server's files instead, an increment where it can be",
    )
    backup.add_argument("--full", action="store_true", help="with --physical: no increment")
    backup.set_defaults(command=_verb("flows.backup:command"))
    kinds = backup.add_subparsers(title="actions", metavar="[ACTION]")
    held = add(kinds, "list", "the backups that are there, newest first")
    held.add_argument("--json", action="store_true", help="for programs")
    held.set_defaults(command=_verb("flows.recovery.listing:list_command"))

    restore = add(verbs, "restore", "rehearse the way back from a backup, or go it")
    ways = restore.add_mutually_exclusive_group(required=True)
    ways.add_argument(
        "--verify", action="store_true", help="the drill: restore aside, compare; exit 1 if other"
    )
    ways.add_argument("--into", metavar="DSN", help="restore into this database and replay from the lake")
    ways.add_argument("--lake", type=Path, metavar="DIR", help="fill an empty lake with a backup's raw files")
    ways.add_argument(
        "--physical", type=Path, metavar="DIR", help="put a copy of the server's files together in a folder"
    )
    restore.add_argument("--backup", metavar="ID", help="this one; without it the newest")
    restore.add_argument("--no-replay", action="store_true", help="with --into: stop at the backup's moment")
    restore.add_argument("--yes", action="store_true", help="with --into: replace what is there")
    restore.set_defaults(command=_verb("flows.restore:command"))

    letters = add(verbs, "dlq", "records that could not be read")
    actions = letters.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = add(actions, "list", "the dead letters, newest first, and how many for which reason")
    listing.add_argument("--entity", help="only this entity, e.g. events.clicks")
    listing.add_argument("--limit", type=count, default=20, help="how many of them are listed (20)")
    listing.add_argument("--all", action="store_true", help="those that were replayed too")
    listing.set_defaults(command=_verb("flows.dlq:list_command"))
    show = add(actions, "show", "one dead letter with its bytes")
    show.add_argument("letter", help="its id, or the beginning of it")
    show.set_defaults(command=_verb("flows.dlq:show_command"))
    replay = add(actions, "replay", "land dead letters again that can be read now")
    replay.add_argument("letter", nargs="*", metavar="ID", help="only these; without one: all that wait")
    replay.add_argument("--entity", help="only letters of this entity, e.g. events.clicks")
    given = "the repaired bytes of the one letter"
    replay.add_argument("--with", dest="with_file", type=Path, metavar="FILE", help=given)
    replay.add_argument("--dry-run", action="store_true", help="say what would be read; change nothing")
    replay.set_defaults(command=_verb("flows.dlq:replay_command"))

    lake = add(verbs, "lake", "ask the lake with DuckDB")
    lake.add_argument("sql", nargs="?", help="a query; without one: a prompt")
    lake.set_defaults(command=_verb("flows.lakeshell:command"))

    alerts = add(verbs, "alerts", "incidents: what is wrong, since when, who is on it")
    told = alerts.add_subparsers(title="actions", metavar="ACTION", required=True)
    listed = add(told, "list", "the open incidents")
    listed.add_argument("--all", action="store_true", help="those that are over, too")
    listed.add_argument("--json", action="store_true", help="for programs")
    listed.set_defaults(command=_verb("flows.alerts:list_command"))
    taken = add(told, "ack", "somebody is on it: it is not escalated")
    taken.add_argument("incident", metavar="ID", help="its id, or the beginning of it")
    taken.add_argument("--by", metavar="NAME", help="who; default: the user of this terminal")
    taken.set_defaults(command=_verb("flows.alerts:ack_command"))
    over = add(told, "end", "nobody will mend it: a stream that is not to come back, a failed run")
    over.add_argument("incident", metavar="ID", help="its id, or the beginning of it")
    over.add_argument("--by", metavar="NAME", help="who; default: the user of this terminal")
    over.set_defaults(command=_verb("flows.alerts:end_command"))
    tried = add(told, "test", "send each channel a message, and what waits for those that take it")
    tried.add_argument("channel", nargs="*", metavar="CHANNEL", help="these alone")
    tried.set_defaults(command=_verb("flows.alerting.trial:command"))
    watched = add(told, "automations", "have Prefect report runs that crash or do not start")
    watched.set_defaults(command=_verb("flows.alerts:automations_command"))
    day = add(told, "summary", "tell how the last 24 hours were")
    day.set_defaults(command=_verb("flows.alerts:summary_command"))

    catalog = add(verbs, "catalog", "what tables and columns mean, and who answers for them")
    catalog.add_argument("--json", action="store_true", help="for programs")
    asked = catalog.add_mutually_exclusive_group()
    asked.add_argument("table", nargs="?", help="one table, view or chart, with examples of its values")
    asked.add_argument("--search", nargs="+", metavar="WORD", help="tables and columns that say all of these")
    asked.add_argument("--write", action="store_true", help="bring docs/dictionary.md up to date")
    asked.add_argument("--check", action="store_true", help="exit 1 when docs/dictionary.md is not")
    catalog.set_defaults(command=_verb("flows.catalog:command"))

    lineage = add(verbs, "lineage", "where a column comes from, and what a change of it touches")
    lineage.add_argument(
        "name", metavar="TABLE[.COLUMN]", help="e.g. fct_orders.revenue; a view, chart or source"
    )
    way = lineage.add_mutually_exclusive_group()
    way.add_argument("--up", action="store_true", help="only where it comes from")
    way.add_argument("--down", action="store_true", help="only what a change would touch")
    lineage.add_argument("--json", action="store_true", help="for programs")
    lineage.set_defaults(command=_verb("flows.lineage:command"))

    portal = add(verbs, "portal", "write the pages that people look at")
    portal.add_argument("--out", metavar="DIR", help="folder for them; default: portal, beside the lake")
    portal.add_argument("--serve", action="store_true", help="serve them, with the rows behind each point")
    portal.add_argument("--host", help="with --serve: where (127.0.0.1); any but loopback needs a token")
    portal.add_argument("--port", type=port, help="with --serve: at which port (8321); 0: any that is free")
    portal.set_defaults(command=_verb("flows.portal.command:command"))

    sla = add(verbs, "sla", "what was promised and kept over 30 days; exit 1 when it was not")
    sla.add_argument("--json", action="store_true", help="for programs")
    sla.set_defaults(command=_verb("flows.sla:command"))

    metrics = add(verbs, "metrics", "what the warehouse knows, as Prometheus reads it")
    metrics.add_argument("--serve", type=port, metavar="PORT", help="answer at /metrics until it is stopped")
    metrics.set_defaults(command=_verb("flows.metrics.endpoint:command"))

    cdc = add(verbs, "cdc", "the capture of the application's changes by Debezium")
    steps = cdc.add_subparsers(title="actions", metavar="ACTION", required=True)
    capture = add(steps, "register", "capture the tables that are declared as cdc; twice is once")
    capture.add_argument("--wait", metavar="TIME", help="until every table is read, 10m at most, say")
    how = add(steps, "status", "connector, slot and topics; exit 1 with what is to be done")
    how.add_argument("--json", action="store_true", help="for programs")
    add(steps, "pause", "let the connector rest; the source keeps its WAL meanwhile")
    add(steps, "resume", "let it go on, also after it has failed")
    again = add(steps, "resnapshot", "read tables again beside the changes")
    again.add_argument("table", nargs="*", help="only these, e.g. orders; without one: all")
    add(steps, "unregister", "remove connector, slot and publication; the topics stay")
    for name, action in steps.choices.items():
        action.set_defaults(command=_verb(f"flows.cdc.commands:{name}"))

    schema = add(verbs, "schema", "the application's columns and their declarations")
    acts = schema.add_subparsers(title="actions", metavar="ACTION", required=True)
    compared = add(acts, "diff", "what the source has otherwise; exit 1 when something differs")
    compared.add_argument("table", nargs="*", help="only these, e.g. orders")
    compared.add_argument("--write", action="store_true", help="declare what the source has")
    compared.add_argument("--json", action="store_true", help="for programs")
    compared.set_defaults(command=_verb("flows.schema:diff"))

    sandbox = add(verbs, "sandbox", "the embedded services and the generated company")
    parts = sandbox.add_subparsers(title="actions", metavar="ACTION", required=True)
    start = add(parts, "start", "start what is not running; make the world if there is none")
    start.add_argument("--scale", type=float, help="of a new world; 1, the default, is 300,000 events")
    start.add_argument("--days", type=int, help="length of a new world (14)")
    add(parts, "stop", "end the sandbox's own processes; the data stay")
    status = add(parts, "status", "which part runs where")
    status.add_argument("--json", action="store_true", help="for programs")
    add(parts, "reset", "stop, and delete the sandbox's folder")
    advance = add(parts, "advance", "let the world live on")
    advance.add_argument("--days", type=int, help="whole days, 1 unless told otherwise")
    advance.add_argument("--live", action="store_true", help="send the days' messages as they would come")
    advance.add_argument("--rate", type=float, help="messages a second, with --live (1,000)")
    advance.add_argument("--for", dest="seconds", metavar="TIME", help="how long, with --live (60s)")
    for name, action in parts.choices.items():
        action.set_defaults(command=_verb(f"flows.sandbox.commands:{name}"))
    # Which parts it takes is told by the declarations, which the sandbox does not know.
    start.set_defaults(command=_verb("flows.commands:start_sandbox"))
    return top


def _selection(verb: argparse.ArgumentParser) -> None:
    named = "only this table, and what it needs that no run has built; TABLE+ with what depends on it"
    verb.add_argument("--select", action="append", metavar="TABLE", help=f"{named}; repeatable; default: all")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 a check or a table failed, 2 it could not be tried, 130
    interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parsed = parser().parse_args(given)
    try:
        return int(parsed.command(parsed))
    except (KeyboardInterrupt, Exception) as error:
        if is_ctrl_c(error):
            said = "\nInterrupted. Nothing is half done: run the same command again to go on."
            print(said, file=sys.stderr)
            return 130
        from flows.errors import FlowsError
        from transforms.contract import ContractError
        from transforms.engine import ModelError

        if parsed.debug or not isinstance(error, FlowsError | ContractError | ModelError):
            raise
        from flows.scrubbing import shown

        print(shown(f"{error}"), file=sys.stderr)
        return getattr(error, "exit_code", 2)


if __name__ == "__main__":
    outcome = [1]
    say_anything()
    sys.excepthook = show_scrubbed
    # The first to be registered is the last to be called.
    atexit.register(lambda: end_with(outcome[0]))
    try:
        hear_ctrl_c()
        outcome[0] = main()
    except KeyboardInterrupt:  # before a command began, or once more while that was said
        outcome[0] = 130
    except SystemExit as leaving:
        outcome[0] = leaving.code if isinstance(leaving.code, int) else 1
    let_ctrl_c_end()
    sys.exit(outcome[0])

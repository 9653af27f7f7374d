"""Taking people out of everything that is kept. `erase` numbers the effects."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import Error, sql

from flows import lakeshell, planner
from flows.build import compaction
from flows.build.job import build
from flows.build.states import planner_states
from flows.change_landing import FOLLOW
from flows.erasure import application, leftovers, listed, ops, past, raw, search
from flows.erasure.application import NotAsked
from flows.erasure.identify import CannotErase, identified, without_others
from flows.erasure.person import Person
from flows.erasure.search import Place
from flows.errors import FlowsError
from flows.failpoints import failpoint
from flows.planner import REPLAYED
from flows.progress import Progress
from flows.recovery import identity
from flows.recovery.vault import BackupError
from flows.services import Services
from flows.settings import SettingsError
from flows.stores.files import written
from flows.stores.lake import QUARANTINE, partition_folder
from flows.stores.ledger import Ledger
from flows.stores.upkeep import refresh
from flows.streaming.journal import Journal
from flows.streaming.rollup import land_journal
from transforms import catalog, registry
from transforms.entities import Kafka
from warehouse_ddl.statements import home


class NotErased(FlowsError):
    """Something still names a person; the message says where."""

    exit_code = 1


@dataclass(frozen=True)
class Erased:
    """What an erasure did, and where it looked afterwards."""

    users: tuple[int, ...]
    raw_files: int
    partitions: int
    entries: int
    files_removed: int
    places: tuple[Place, ...]


def erase(
    services: Services,
    users: Sequence[int],
    reason: str,
    run_id: str,
    progress: Progress,
    *,
    asks: bool = True,
) -> Erased:
    """Take these users out of lake and warehouse, and search both for them.

    1. They are noted, with the addresses by which raw knows them and, with `asks`, the application does: in
       the warehouse, in the lake and beside the backups. From here on what a source still tells of them is
       landed without personal data.
    2. Raw files that name them are written anew without what names them; every ledger entry follows.
    3. Of the users' own table a deletion is landed.
    4. What was built and names them is marked, and what is due is built and published, checks and all. What
       is past its retention is not built again: its files are written anew without them.
    5. Files that hold rows of theirs which no longer count are written anew.
    6. Dead letters, waiting records and texts in ops lose them; so does quarantine.
    7. Files that are nobody's content now are removed at once.
    8. Everything is searched. Only when nothing is found the erasure counts as done, and the addresses that
       were looked for are forgotten.

    A crash anywhere is made good by the same call: each step finds its work done, or does it. Raises
    CannotErase (nothing was changed), also where a table that nothing declares any more may hold somebody;
    NotErased, and what a build raises.
    """
    with services.ledger() as ledger, ledger.locked("erase", "warehouse"):
        said = _asked(services, users, progress) if asks else {}
        people = _people(services, ledger, users, said)
        leftovers.refuse(services, ledger, people)
        with _undisturbed(services, ledger):
            now = services.settings.now()
            for person in people:
                listed.begin(ledger.connection, services.lake, person, reason, now)
            _beside_the_backups(services)
            failpoint("erase.listed")
            progress.say("erase", f"user {', '.join(map(str, users))}: known by {_told(people)}")
            files = _out_of_raw(services, ledger, people, run_id)
            progress.say("erase", f"{files} raw files written anew")
        partitions = _out_of_built(services, ledger, people, run_id, progress)
        entries = ops.forget(ledger.connection, people) + _out_of_quarantine(services, people)
        failpoint("erase.quarantine_forgotten")
        tables = {table.name: table.layer.value for table in registry.tables().values()}
        removed = raw.remove_replaced(services, ledger, tables)
        services.lake.sweep(ledger.named_paths)
        lakeshell.write(services.lake, registry.tables().values())
        _let_go(services)
        failpoint("erase.removed")
        places = search.everywhere(services, ledger, people)
        left = [place for place in places if place.found]
        if left:
            raise NotErased(
                f"User {', '.join(map(str, users))} is not gone yet: "
                f"{'; '.join(f'{place.what}: {place.found} found' for place in left)}. Everything else is "
                "done. If a run or a stream was at work meanwhile, run the same command again; rows in a "
                "schema that a rebuild --as-of made go with `drop schema … cascade`."
            )
        for person in people:
            found = [asdict(place) for place in places]
            listed.finish(ledger.connection, services.lake, person.user_id, services.settings.now(), found)
    return Erased(tuple(users), files, partitions, entries, removed, tuple(places))


def apply_erasures(services: Services, progress: Progress) -> Erased | None:
    """Erase everybody again who was ever erased: after a backup was restored, whose rows are older than that.
    None where nobody was.

    The list is the warehouse's and, for whoever was erased after the backup, the lake's (`_erasures.jsonl`).
    """
    with services.ledger() as ledger:
        users = listed.take_over(ledger.connection, services.lake)
    # What the application has by now may be somebody else's.
    return erase(services, users, "", "apply-erasures", progress, asks=False) if users else None


def unfinished(ledger: Ledger) -> list[int]:
    """Users whose erasure was begun and did not come to its end."""
    there = ledger.connection.execute("SELECT to_regclass('ops.erasure') IS NOT NULL").fetchone()
    if there is None or not there[0]:
        return []
    query = "SELECT user_id FROM ops.erasure WHERE finished_at IS NULL ORDER BY 1"
    return [user for (user,) in ledger.connection.execute(query).fetchall()]


def _asked(services: Services, users: Sequence[int], progress: Progress) -> dict[int, set[str]]:
    """User → the addresses that the application has of them now; none, and a word of it, where it is away."""
    try:
        return {user: application.emails(services.settings, user) for user in users}
    except NotAsked as error:
        progress.say(
            "erase",
            f"the application could not be asked for addresses that were changed since the last landing "
            f"({error}): run the same again once it answers",
        )
        return {}


def _people(
    services: Services, ledger: Ledger, users: Sequence[int], said: Mapping[int, set[str]]
) -> list[Person]:
    known = listed.known(ledger.connection, services.lake)
    people = [
        identified(
            services,
            ledger,
            (known.get(user) or Person.new(user)).with_emails(said.get(user, ())),
            {*users, *known},
            is_listed=user in known,
        )
        for user in users
    ]
    recognized = ops.recognized(ledger.connection, people)
    # Whoever has signed up again is somebody else, who is erased if they ask for it.
    return [without_others(services, ledger, person, {*users, *known}) for person in recognized]


def _beside_the_backups(services: Services) -> None:
    """A warehouse and a lake that are lost together have lost their lists: who restores is told by this one.
    Where no backup was ever taken there is nothing to restore. Raises NotErased when it can't be written.
    """
    try:
        folder = services.settings.backups_root
    except SettingsError:
        return
    if not folder.is_dir():
        return
    try:
        identity.refuse_others(folder, identity.of_lake(services.lake.root))
        listed.bring(services.lake.root, folder)
    except BackupError as error:
        raise NotErased(f"Who is erased can't be noted beside the backups. {error}") from error
    except OSError as error:
        raise NotErased(
            f"Who is erased can't be noted beside the backups ({folder}: {error.strerror or error}), so a "
            "backup that is restored might bring them back. Nobody was erased; mend that and run the same "
            "command again."
        ) from error


def _told(people: Sequence[Person]) -> str:
    count = sum(len(person.emails) for person in people)
    return f"{count} e-mail address{'' if count == 1 else 'es'}"


@contextmanager
def _undisturbed(services: Services, ledger: Ledger) -> Iterator[None]:
    """While raw is written anew no stream may take anything in. Raises CannotErase when one is at work."""
    running = "A stream is at work, and what it takes in now would be missed. Stop it (SIGTERM), run again, "
    with ExitStack() as held:
        journal = Journal(ledger.connection)
        for entity in registry.entities():
            if isinstance(entity.read, Kafka) and not held.enter_context(journal.alone(entity.table)):
                raise CannotErase(f"{running}and start it after that. Nothing was changed.")
        if ledger.is_held(FOLLOW, services.settings.cdc_prefix):
            raise CannotErase(f"{running}and start it after that. Nothing was changed.")
        yield


def _out_of_raw(services: Services, ledger: Ledger, people: Sequence[Person], run_id: str) -> int:
    """Steps 2 and 3."""
    files = 0
    for entity in registry.entities():
        with ledger.locked("land", entity.table):
            if isinstance(entity.read, Kafka):
                land_journal(services.lake, ledger, entity, services.settings.now(), run_id)
            files += raw.rewrite(services, ledger, entity, people)
            if raw.is_account(entity):
                for person in people:
                    raw.land_deletion(services, ledger, entity, person, run_id)
    return files


def _out_of_built(
    services: Services, ledger: Ledger, people: Sequence[Person], run_id: str, progress: Progress
) -> int:
    """Steps 4 and 5; returns how many partitions named them."""
    tables, now = registry.tables(), services.settings.now()
    named = list(search.suspects(services, ledger, people))
    kept = [(name, partition) for name, partition in named if tables[name].is_past_retention(partition, now)]
    past.rewrite(services, ledger, kept, people, run_id)
    ledger.mark([place for place in named if place not in kept], REPLAYED)
    failpoint("erase.marked")
    for table in registry.build_order():
        states = planner_states(ledger, [table.name, *table.upstreams])
        work = planner.plan(table, tables, states, catalog.fingerprint(table), services.settings.now())
        for due in planner.batches(work):
            build(services, work, due, run_id)
            progress.say(table.name, f"{len(due)} partitions built")
    failpoint("erase.built")
    refresh(services.warehouse)
    for name, partition in list(search.suspects(services, ledger, people)):
        table = registry.table(name)
        with ledger.locked("build", name):
            state = ledger.states([name], [partition])[name, partition]
            folder = partition_folder(table) if partition else None
            measured = table.partition.by if table.partition else None
            commit = compaction.joined(
                services.lake, table, partition, state.files, folder, measured, run_id, state.version
            )
            ledger.record(services.lake, commit, version=state.version)
        failpoint("erase.compacted")
    return len(named)


def _out_of_quarantine(services: Services, people: Sequence[Person]) -> int:
    """Rows that name them go from the files of quarantine; returns how many files that were."""
    changed = 0
    for path in search.whole_files(services.lake.root / QUARANTINE):
        if not search.naming(path, people):
            continue
        scrubber = search.scrubber_of(search.owner(path), people)
        with pq.ParquetFile(path) as file:
            kept = []
            for batch in file.iter_batches():
                named = set(scrubber.batch(batch)[1]) | search.theirs(path, batch, people)
                kept.append(batch.filter(pa.array([row not in named for row in range(batch.num_rows)])))
            rows = pa.Table.from_batches(kept, schema=file.schema_arrow)
        temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
        with written(path.parent):
            try:
                pq.write_table(rows, temporary, compression="zstd")
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        changed += 1
    return changed


def _let_go(services: Services) -> None:
    """Old versions of rows, and the planner's samples of values, leave PostgreSQL's own files too."""
    names = [
        (home(table), table.name) for table in registry.build_order() if table.is_published and table.personal
    ]
    names += [("ops", "dead_letter"), ("ops", "change_record"), ("ops", "erasure")]
    with services.warehouse.connect() as connection:
        for schema, name in names:
            try:
                connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(schema, name)))
            except Error:  # in use, or not ours: autovacuum does it
                continue

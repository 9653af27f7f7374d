"""By which addresses a person is known: what raw says of a user, in every version of it, in the lake
and in the backups.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson

from flows.erasure import ops
from flows.erasure.person import Person
from flows.erasure.scrub import USER, owner_of
from flows.errors import FlowsError
from flows.landed import rows_landed
from flows.recovery import identity, raw_files
from flows.recovery.vault import POOL, Vault
from flows.services import Services
from flows.settings import SettingsError
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import LakeFile
from transforms import registry
from transforms.engine import quoted
from transforms.entities import Postgres, Rest, SourceEntity


class CannotErase(FlowsError):
    """Whom to erase is not certain, or something stands in the way; the message says what to do."""


class BadErasure(CannotErase):
    """Nobody, or somebody else too, would be erased: the same call never can."""


def identified(
    services: Services, ledger: Ledger, person: Person, also: Collection[int], *, is_listed: bool
) -> Person:
    """The person with every address that raw has of them. `is_listed`: they are among the erased, whether or
    not anything names them still.

    Raises BadErasure for a user whom nothing names, and for one whose address is somebody else's too who is
    not among `also`, those who are erased with them.
    """
    emails: set[str] = set(person.emails)
    is_known = is_listed
    for entity in registry.entities():
        if isinstance(entity.read, Postgres) and entity.person is not None:
            known, theirs = _of_rows(services.lake, ledger.files(entity.table), entity, person.user_id)
            is_known |= known
            emails |= theirs
        elif isinstance(entity.read, Rest) and entity.personal:
            emails |= set(_of_objects(services, ledger, entity, person.user_id))
    if not (is_known or emails or _is_member(ledger, person.user_id)):
        is_known = ops.has_letters(ledger.connection, person)
        in_backups, theirs, unread = _of_backups(services, person.user_id)
        emails |= theirs
        if not is_known and not in_backups:
            besides = f" What was not searched: {'; '.join(unread)}." if unread else ""
            raise BadErasure(
                f"There is no user {person.user_id} in the warehouse, its dead letters, the lake or the raw "
                f"files of the backups, so there is nobody to erase.{besides} Look the id up: select user_id "
                "from analytics.dim_users where …"
            )
    found = person.with_emails(emails)
    for other in _others(services, ledger, found):
        if other not in also:
            raise BadErasure(
                f"User {other} has the same e-mail address as user {person.user_id}, so what names it can't "
                "be told apart. Nothing was changed. Erase both: python -m flows erase --user "
                f"{person.user_id} --user {other}"
            )
    return found


def _of_rows(
    lake: Lake, files: Sequence[LakeFile], entity: SourceEntity, user_id: int
) -> tuple[bool, set[str]]:
    """Whether rows of a table are the user's, and in all versions of their account the addresses."""
    with lake.duckdb() as session:
        rows = rows_landed(session, lake, entity, files)
        if rows is None:
            return False, set()
        theirs = rows.filter(f"{quoted(str(entity.person))} = {int(user_id)}")
        if entity.person not in entity.key:
            return bool(theirs.limit(1).fetchall()), set()
        found = theirs.project(", ".join(map(quoted, entity.addresses))).fetchall()
    return bool(found), {value for row in found for value in row if value}


def _of_backups(services: Services, user_id: int) -> tuple[bool, set[str], list[str]]:
    """The same of all the raw files in the backups, and which backups could not be searched, with the reason:
    a restore brings back whom they hold.
    """
    try:
        root = services.settings.backups_root
    except SettingsError:
        return False, set(), []
    vault, unread = Vault(root, None), []
    backups, unreadable = vault.look()
    unread += [f"{one.id} can't be read" for one in unreadable]
    files: dict[str, LakeFile] = {}
    own = identity.of_lake(services.lake.root)
    for backup in (one for one in backups if not identity.is_others(one, own)):
        if backup.recipient is not None or backup.raw == "none":
            why = "is sealed" if backup.recipient is not None else "has no raw files"
            unread.append(f"backup {backup.id} {why}")
            continue
        try:
            files |= {file.path: file for file in raw_files.listed(backup)}
        except FlowsError:
            unread.append(f"backup {backup.id} does not say which raw files it has")
    is_known, emails = False, set[str]()
    with Lake(root / POOL) as pool:
        for entity in registry.entities():
            if not isinstance(entity.read, Postgres) or entity.person is None:
                continue
            for file in files.values():
                if file.table != entity.table:
                    continue
                try:
                    known, theirs = _of_rows(pool, [file], entity, user_id)
                except FlowsError:
                    unread.append(f"{file.path} in the backups is damaged")
                    continue
                is_known |= known
                emails |= theirs
    return is_known, emails, unread


def without_others(services: Services, ledger: Ledger, person: Person, also: Collection[int]) -> Person:
    """The person without the addresses that accounts of others, but for `also`, have by now: these are known
    by their hashes alone, which accounts are not searched for.
    """
    others = _others(services, ledger, person).items()
    claimed = {email for user, emails in others if user not in also for email in emails}
    return replace(person, emails=tuple(email for email in person.emails if email not in claimed))


def _others(services: Services, ledger: Ledger, person: Person) -> dict[int, set[str]]:
    """Other users of whom raw has some of these addresses, and which."""
    others: dict[int, set[str]] = {}
    for entity in registry.entities():
        if not (isinstance(entity.read, Postgres) and entity.person == "id") or not person.emails:
            continue
        with services.lake.duckdb() as session:
            rows = rows_landed(session, services.lake, entity, ledger.files(entity.table))
            if rows is None:
                continue
            for name in entity.addresses:
                email = f"lower(trim({quoted(name)}))"
                query = rows.project(f"{quoted(str(entity.person))} as id, {email} as email").sql_query()
                found = session.execute(
                    f"select distinct id, email from ({query}) where email in (select unnest(?)) and id <> ?",
                    [list(person.emails), person.user_id],
                ).fetchall()
                for user, address in found:
                    others.setdefault(int(user), set()).add(address)
    return others


def _of_objects(services: Services, ledger: Ledger, entity: SourceEntity, user_id: int) -> Iterator[str]:
    """The addresses in objects of an API that say by their metadata that they are this user's."""
    files = ledger.files(entity.table)
    if not files:
        return
    with services.lake.duckdb() as session:
        rows = services.lake.read(session, files).project("object::varchar as object")
        named = rf'"{USER}"\s*:\s*"?{int(user_id)}\b'
        found = session.execute(
            f"select object from ({rows.sql_query()}) where regexp_matches(object, ?)", [named]
        ).fetchall()
    for (text,) in found:
        yield from _addresses(orjson.loads(text), str(user_id))


def _addresses(document: Any, user_id: str) -> Iterator[str]:
    if isinstance(document, dict):
        if owner_of(document) == user_id:
            yield from _emails(document)
        if owner_of(document.get("object")) == user_id:
            yield from _emails(document.get("previous_attributes"))
        for inner in document.values():
            yield from _addresses(inner, user_id)
    elif isinstance(document, list):
        for inner in document:
            yield from _addresses(inner, user_id)


def _emails(document: Any) -> Iterator[str]:
    for name, value in document.items() if isinstance(document, dict) else ():
        if isinstance(value, str) and "email" in name and "@" in value:
            yield value


def _is_member(ledger: Ledger, user_id: int) -> bool:
    there = ledger.connection.execute("SELECT to_regclass('analytics.dim_users') IS NOT NULL").fetchone()
    if there is None or not there[0]:
        return False
    query = "SELECT 1 FROM analytics.dim_users WHERE user_id = %s"
    return ledger.connection.execute(query, (user_id,)).fetchone() is not None

"""By which addresses a person is known: what the lake's raw layer says of a user, in every version of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import orjson

from flows.erasure.person import Person
from flows.erasure.scrub import USER, owner_of
from flows.errors import FlowsError
from flows.landed import rows_landed
from flows.services import Services
from flows.stores.ledger import Ledger
from transforms import registry
from transforms.engine import quoted
from transforms.entities import Postgres, Rest, SourceEntity


class CannotErase(FlowsError):
    """Whom to erase is not certain, or something stands in the way; the message says what to do."""


def identified(
    services: Services, ledger: Ledger, person: Person, also: Collection[int], *, is_listed: bool
) -> Person:
    """The person with every address that raw has of them. `is_listed`: they are among the erased, whether or
    not anything names them still.

    Raises CannotErase for a user whom nothing names, and for one whose address is somebody else's too who is
    not among `also`, those who are erased with them.
    """
    emails: set[str] = set(person.emails)
    is_known = is_listed
    for entity in registry.entities():
        if isinstance(entity.read, Postgres) and entity.person == "id":
            known, theirs = _of_account(services, ledger, entity, person.user_id)
            is_known |= known
            emails |= theirs
        elif isinstance(entity.read, Rest) and entity.personal:
            emails |= set(_of_objects(services, ledger, entity, person.user_id))
    if not is_known and not emails and not _is_member(ledger, person.user_id):
        raise CannotErase(
            f"There is no user {person.user_id} in the lake or the warehouse, so there is nobody to erase. "
            "Look the id up: select user_id from analytics.dim_users where …"
        )
    found = person.with_emails(emails)
    for other in _others(services, ledger, found):
        if other not in also:
            raise CannotErase(
                f"User {other} has the same e-mail address as user {person.user_id}, so what names it can't "
                "be told apart. Nothing was changed. Erase both: python -m flows erase --user "
                f"{person.user_id} --user {other}"
            )
    return found


def _of_account(
    services: Services, ledger: Ledger, entity: SourceEntity, user_id: int
) -> tuple[bool, set[str]]:
    """Whether raw knows the user, and their addresses in all its versions."""
    with services.lake.duckdb() as session:
        rows = rows_landed(session, services.lake, entity, ledger.files(entity.table))
        if rows is None:
            return False, set()
        addresses = [c.name for c in entity.columns if c.pii and "email" in c.name]
        listed = ", ".join(quoted(name) for name in addresses)
        found = rows.filter(f"{quoted(str(entity.person))} = {int(user_id)}").project(listed).fetchall()
    return bool(found), {value for row in found for value in row if value}


def _others(services: Services, ledger: Ledger, person: Person) -> set[int]:
    """Other users of whom raw has one of these addresses."""
    others: set[int] = set()
    for entity in registry.entities():
        if not (isinstance(entity.read, Postgres) and entity.person == "id") or not person.emails:
            continue
        with services.lake.duckdb() as session:
            rows = rows_landed(session, services.lake, entity, ledger.files(entity.table))
            if rows is None:
                continue
            for name in [c.name for c in entity.columns if c.pii and "email" in c.name]:
                same = f"lower(trim({quoted(name)})) in (select unnest(?))"
                query = rows.project(f"{quoted(str(entity.person))} as id, {quoted(name)}").sql_query()
                found = session.execute(
                    f"select distinct id from ({query}) where {same}", [list(person.emails)]
                ).fetchall()
                others |= {int(user) for (user,) in found}
    return others - {person.user_id}


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

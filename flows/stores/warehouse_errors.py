"""What PostgreSQL refuses, in sentences without secrets or values of rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import psycopg
from adbc_driver_manager import Error as AdbcError

from flows.errors import FlowsError
from flows.logins import PLACE_TO_DO, has_no_place, is_login_refused
from flows.scrubbing import scrubbed
from flows.stores import read_only, rights
from transforms.engine import explain

_NOT_THERE = {"42P01", "3F000"}
"""PostgreSQL's codes for a relation and a schema that it does not have."""
_OURS = re.compile(r'"(ops|analytics)[".]')
_DRIVERS_OWN = re.compile(r"^[A-Z_]+: \[libpq\] .*?: PGRES_\w+ \w+: +")


class WarehouseError(FlowsError):
    """PostgreSQL refused or was cut off. Nothing of the transaction is there; the message holds no secret."""

    state: str | None = None
    """SQLSTATE, where PostgreSQL has refused."""
    cause = ""
    """What it said then, without values."""


class UnfitValue(WarehouseError):
    """A value that its column can't hold: the same content would be refused again."""


class OnlyReads(WarehouseError):
    """PostgreSQL is there and takes no writes, so nothing is published or remembered."""


class NotLetIn(WarehouseError):
    """PostgreSQL is there, and this login may not come in: to wait for it would be in vain."""


class NoRight(WarehouseError):
    """PostgreSQL lets this login in, and the role that it acts as lacks a right: somebody has to give it."""


class NoPlace(WarehouseError):
    """PostgreSQL is there, and has as many sessions as it takes; none of them has ended for a minute."""


@contextmanager
def readable_errors(where: str = "") -> Iterator[None]:
    """Turn errors of PostgreSQL, ADBC and DuckDB's casts into WarehouseError without secrets or rows; into
    NotLetIn where the login is refused, into NoPlace where nobody more is let in.
    """
    at = f" ({where})" if where else ""
    try:
        yield
    except psycopg.OperationalError as error:
        _refuse_shut_out(at, str(error))
        if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
            raise WarehouseError(
                f"The connection to the warehouse failed or was cut{at}: {scrub(str(error))}. "
                "What was not committed is not there. Check the server (`python -m flows doctor`), run again."
            ) from None
        raise WarehouseError(_refused(at, error.sqlstate, error.diag.message_primary or str(error))) from None
    except psycopg.Error as error:
        raise _refusal(at, error.sqlstate, error.diag.message_primary or str(error)) from None
    except (AdbcError, OSError) as error:
        _refuse_shut_out(at, str(error))
        state = getattr(error, "sqlstate", None)
        raise _refusal(at, state, str(error)) from None
    except duckdb.ConversionException as error:
        raise UnfitValue(
            f"A value does not fit the column's type{at}: {explain(error).splitlines()[0]}. "
            "Nothing was loaded. Reject such rows in the model (`_dead_letter_reason`) or widen the type."
        ) from None


def _refuse_shut_out(at: str, text: str) -> None:
    if is_login_refused(text):
        raise NotLetIn(
            f"The warehouse does not let this login in{at}: {scrub(text)}. What was not committed is not "
            "there. Give ANALYTICS_WAREHOUSE_DSN, or what it is read from, the login and password of now "
            "(docs/security.md), and start again."
        ) from None
    if has_no_place(text):
        raise NoPlace(
            f"The warehouse has no place for another session{at}: {scrub(text)}. What was not committed is "
            f"not there. {PLACE_TO_DO} Then run again."
        ) from None


def scrub(text: str) -> str:
    """The first line of an error without passwords and without values of rows."""
    line = (text.strip().splitlines() or ["no reason was given"])[0]
    line = _DRIVERS_OWN.sub("", scrubbed(line, ()))
    line = re.sub(r"\(([^()]*)\)=\((.*)\)", r"(\1)=(***)", line)
    line = re.sub(r"(?i)(with value )\S+", r"\1***", line)
    line = re.sub(
        r"(?i)((?:value|string|syntax for type [\w ]+|token):? )(\"[^\"]*\"|'[^']*')", r"\1***", line
    )
    return line.rstrip(".")


def _refusal(at: str, state: str | None, message: str) -> WarehouseError:
    kind = WarehouseError
    if state == read_only.STATE:
        kind = OnlyReads
    elif state == rights.STATE:
        kind = NoRight
    elif (state or "").startswith("22"):  # this class of SQLSTATE is about values
        kind = UnfitValue
    error = kind(_refused(at, state, message))
    error.state, error.cause = state, scrub(message)
    return error


def _refused(at: str, state: str | None, message: str) -> str:
    if state in _NOT_THERE and (ours := _OURS.search(message)):
        since = "by an older version" if ours[1] == "ops" else "not since that was declared"
        return (
            f"This warehouse was never prepared, or {since} ({scrub(message)}). Prepare it with a run: "
            "python -m flows"
        )
    if state == rights.STATE:  # without the place: of many tables that fail by it, it is one cause
        is_of_ledgers = "schema ops" in message
        who = "A login that is no member of loader lacks this: grant loader to it. " if is_of_ledgers else ""
        return (
            f"The warehouse's role lacks a right ({scrub(message)}). What was published stays as it was. "
            f"{who}{rights.to_do(message)}"
        )
    if state == read_only.STATE:
        return (
            f"The warehouse takes no writes{at} ({scrub(message)}): it is a standby, or "
            f"default_transaction_read_only is on. Nothing was changed. {read_only.TO_DO}"
        )
    code = f" [{state}]" if state else ""
    return (
        f"The warehouse refused{at}{code}: {scrub(message)}. "
        "What was published stays as it was; fix the cause and run again."
    )

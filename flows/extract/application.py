"""How the application's database is reached by those who capture its changes, and what its errors say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict

from flows.extract import SourceAway, SourceRefused, source_locks
from flows.extract.postgres_session import is_refusal
from flows.settings import Settings


def secrets(settings: Settings) -> tuple[str, ...]:
    """Passwords that no answer may show."""
    dsns = (settings.require("app_dsn"), cdc_dsn(settings))
    passwords = (conninfo_to_dict(dsn).get("password") for dsn in dsns)
    return tuple({str(password) for password in passwords if password})


def cdc_dsn(settings: Settings) -> str:
    """The application's database as Debezium reaches it."""
    if settings.cdc_engine == "embedded":
        return settings.require("app_dsn")
    if settings.cdc_dsn is not None:
        return settings.cdc_dsn.get_secret_value()
    if settings.app_dsn is None and settings.sandbox_state is not None and settings.sandbox_state.cdc_dsn:
        return settings.sandbox_state.cdc_dsn
    return settings.require("app_dsn")


@contextmanager
def answering(settings: Settings) -> Iterator[str]:
    """The application's DSN. What the database answers with instead, or that it does not answer, is raised
    without passwords: as SourceRefused what it would answer again, as SourceAway the rest.
    """
    try:
        yield settings.require("app_dsn")
    except psycopg.errors.LockNotAvailable:
        by = source_locks.held(settings.require("app_dsn"), source_locks.AGAINST_PUBLISHING)
        raise SourceAway(
            f"The application's database kept what was asked of it waiting for a lock, {by}"
        ) from None
    except psycopg.Error as error:
        reason = first_line(error)
        for secret in secrets(settings):
            reason = reason.replace(secret, "***")
        raise (SourceRefused if is_refusal(error) else SourceAway)(
            f"The application's database could not be asked ({reason}): mend that or correct "
            "ANALYTICS_APP_DSN, then run again."
        ) from None


def first_line(error: psycopg.Error) -> str:
    """What an error says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")

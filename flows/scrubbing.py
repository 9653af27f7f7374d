"""Secrets that got into a text that is about to be shown or kept.

What raises an error quotes what it was given: an address with its password, an option, a header. Whatever
text leaves the process goes through here: what the command line prints, tracebacks, log records (Prefect's
too). The settings say what is secret.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import traceback
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Protocol
from urllib.parse import quote, unquote

STARS = "***"
_SECRET_OPTIONS = ("password", "secret", "token", "pem", "oauth", "jaas")
_SHORT = 4
"""Shorter ones would turn half of a text into stars."""


class _Knowing(Protocol):
    """The settings, as far as this asks them."""

    def scrub(self, text: str) -> str: ...


_settings: _Knowing | None = None
_factory = logging.getLogRecordFactory()


def parts(dsn: str) -> set[str]:
    """What is secret in a PostgreSQL address: its passwords."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        known = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return set()
    return {str(known[name]) for name in ("password", "sslpassword") if known.get(name)}


def of_key(key: str) -> set[str]:
    """What else tells a key, where it is a user and a password (`user:password`) or a user alone: the
    password, and both as basic authentication sends them.
    """
    user, _, password = key.partition(":")
    return {base64.b64encode(f"{user}:{password}".encode()).decode()} | ({password} if password else set())


def of_options(options: Mapping[str, str]) -> set[str]:
    """The values of client options whose names say that they are secret."""
    return {value for name, value in options.items() if any(word in name.lower() for word in _SECRET_OPTIONS)}


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """The text with stars in place of each secret, also as it stands in an address, and of what looks like a
    password in one.
    """
    forms = {form for secret in secrets for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        if len(form) >= _SHORT:
            text = text.replace(form, STARS)
    # `…:password@host` is the form of an address, as messages and help show it.
    text = re.sub(r"(?i)(://[^:/@\s'\"]*):(?!password@host[:/?])[^@\s'\"/]*@", rf"\1:{STARS}@", text)
    return re.sub(r"(?i)\b(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s'\",}]+)", rf"\1{STARS}", text)


@cache
def _forms(secret: str) -> frozenset[str]:
    """A secret as it can stand in a text: as it is, in an address, quoted by Python or in JSON."""
    quoted = (repr(secret), ascii(secret), json.dumps(secret), repr(secret.encode())[1:])
    return frozenset((secret, quote(secret, safe=""), unquote(secret), *(form[1:-1] for form in quoted)))


def watch(settings: _Knowing) -> None:
    """From now on know these secrets, and take them out of every log record of this process."""
    global _settings
    _settings = settings
    logging.setLogRecordFactory(_record)


def shown(text: str) -> str:
    """A text as it may be shown: without the secrets of the settings that were read last."""
    return _settings.scrub(text) if _settings is not None else scrubbed(text, ())


def told(error: BaseException) -> str:
    """A traceback as it may be shown."""
    return shown("".join(traceback.format_exception(error)))


def _record(*arguments: Any, **named: Any) -> logging.LogRecord:
    record = _factory(*arguments, **named)
    if record.args or record.exc_info or _could_hold(record.msg):
        try:
            record.msg, record.args = shown(record.getMessage()), ()
        except (TypeError, ValueError):  # a record whose arguments do not fit: logging says so itself
            return record
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = told(record.exc_info[1])
    return record


def _could_hold(message: object) -> bool:
    return isinstance(message, str) and len(message) >= _SHORT

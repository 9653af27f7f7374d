"""Whether a setting can be what it says: asked when settings are read, so that a wrong one is told at once,
whichever command meets it. Each raises ValueError with the reason, without a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from urllib.parse import urlsplit

from flows import scrubbing

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:[kmgt](?:i?b)?|(%))\s*", re.IGNORECASE)


def database(dsn: str) -> None:
    """An address of PostgreSQL, in either of its forms."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        known = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise ValueError("it is not written like postgresql://user:password@host:5432/database") from None
    if "@" in str(known.get("host", "")):
        # Else a part of the password is taken for the host, and named in every error about it.
        raise ValueError("its password holds an @, which has to be written %40 there")


def address(url: str) -> None:
    """An address of HTTP: scheme, host, a port that is a number."""
    try:
        known = urlsplit(url)
        is_address = known.scheme in {"http", "https"} and bool(known.hostname) and known.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ValueError("it is not written like https://host or http://host:8083")


def size(text: str) -> None:
    """What DuckDB takes for a limit of memory, more than nothing."""
    found = _SIZE.fullmatch(text)
    if found is None or not 0 < float(found[1]) <= (100 if found[2] else math.inf):
        raise ValueError("it is not written like 2GB, 500MB or 60%")


def key(text: str) -> None:
    """A key of an API: it goes into a header, and who refuses one there quotes it."""
    if re.fullmatch(r"[!-~]+", text) is None:
        raise ValueError("it holds a space, a line break or another character that no key has")


def client_options(options: Mapping[str, str]) -> None:
    """What Kafka's client takes; a client that is told of no broker asks none."""
    _client_options(tuple(sorted(options.items())))


@cache
def _client_options(options: tuple[tuple[str, str], ...]) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        AdminClient({"log_level": 0, **dict(options)})
    except KafkaException as error:
        secrets = scrubbing.of_options(dict(options))
        reason = scrubbing.scrubbed(error.args[0].str(), secrets).splitlines()[0]
        raise ValueError(f"Kafka's client does not take it ({reason})") from None

"""How OpenLineage names what we read and write: a namespace for the service, a name within it.

https://openlineage.io/docs/spec/naming; users and passwords are never part of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from flows.settings import Settings
from transforms.contract import Table
from transforms.entities import Kafka, Postgres, Rest, SourceEntity
from warehouse_ddl.statements import PUBLISHED

_PORT, _BROKERS_PORT = "5432", "9092"


@dataclass(frozen=True)
class Place:
    """A data set's namespace and name."""

    namespace: str
    name: str


def of_table(table: Table, settings: Settings) -> Place:
    """What PostgreSQL serves stands there, what only the lake has in its folder."""
    if table.is_published:
        return of_published(table.name, settings)
    return Place("file", str(settings.lake_root / table.layer.value / table.name))


def of_published(name: str, settings: Settings) -> Place:
    """A table or view under the name that people read it by."""
    namespace, database = _database(settings.require("warehouse_dsn"))
    return Place(namespace, f"{database}.{PUBLISHED}.{name}")


def of_source(entity: SourceEntity, settings: Settings) -> Place:
    """A table of the application, a topic, a list of an API."""
    match entity.read:
        case Postgres(table=table, schema=schema):
            namespace, database = _database(settings.require("app_dsn"))
            return Place(namespace, f"{database}.{schema}.{table}")
        case Kafka(topic=topic):
            return Place(f"kafka://{_broker(settings.require('kafka_bootstrap'))}", topic)
        case Rest(path=path):
            address = urlsplit(settings.require(f"{entity.source}_url"))
            port = f":{address.port}" if address.port else ""
            namespace = f"{address.scheme}://{_bracketed(address.hostname or '')}{port}"
            return Place(namespace, address.path.rstrip("/") + path)


def _broker(bootstrap: str) -> str:
    """The first of the brokers, without the protocol that may stand before it."""
    first = bootstrap.split(",")[0].strip().rpartition("://")[2]
    return first if re.search(r":\d+$", first) else f"{first}:{_BROKERS_PORT}"


def _bracketed(host: str) -> str:
    """A host in an address: one of IPv6 stands in brackets."""
    return f"[{host}]" if ":" in host else host


@lru_cache(maxsize=8)
def _database(dsn: str) -> tuple[str, str]:
    from psycopg.conninfo import conninfo_to_dict

    said = conninfo_to_dict(dsn)
    host, port = (
        str(said.get(name) or default) for name, default in (("host", "localhost"), ("port", _PORT))
    )
    # A socket's folder is a host of this machine.
    host = "localhost" if host.startswith("/") else host
    # As libpq has it, a database that is not named is the one that is called as the user.
    database = str(said.get("dbname") or said.get("user") or "")
    return f"postgres://{_bracketed(host.split(',')[0])}:{port.split(',')[0]}", database

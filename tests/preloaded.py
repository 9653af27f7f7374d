"""What the parent of the tests' processes has done before it forks them: imports, and reading the models as
they are declared and as they are without change data capture.
"""

from __future__ import annotations

import gc
from contextlib import nullcontext

import adbc_driver_postgresql.dbapi  # noqa: F401
import psycopg.types.json  # noqa: F401
import pyarrow.parquet  # noqa: F401
import sqlglot.dialects.postgres  # noqa: F401

import flows.cdc
import flows.extract.kafka
import flows.extract.postgres
import flows.extract.rest
import flows.sandbox.apis  # noqa: F401
from flows.http_client import client
from tests.flows import kill_child  # noqa: F401
from tests.flows.modes import without_capture
from tests.flows.streaming import topics  # noqa: F401
from transforms import catalog, registry

for _mode in (nullcontext, without_capture):
    with _mode():
        for _table in registry.build_order():
            catalog.fingerprint(_table)
            catalog.columns(_table)

client("http://127.0.0.1", seconds=1).close()  # httpx imports what it speaks with when it is asked for

gc.collect()
gc.freeze()

"""What the parent of the tests' processes has done before it forks them: imports, and reading the models."""

from __future__ import annotations

import gc

import adbc_driver_postgresql.dbapi  # noqa: F401
import psycopg.types.json  # noqa: F401
import pyarrow.parquet  # noqa: F401

import flows.cdc
import flows.extract.kafka
import flows.extract.postgres
import flows.extract.rest  # noqa: F401
from tests.flows import kill_child  # noqa: F401
from tests.flows.streaming import topics  # noqa: F401
from transforms import catalog, registry

for _table in registry.build_order():
    catalog.fingerprint(_table)

gc.collect()
gc.freeze()

"""What the parent of the killed processes has done before it forks them: imports, and reading the models."""

from __future__ import annotations

import psycopg.types.json  # noqa: F401
import pyarrow.parquet  # noqa: F401

import flows.extract.kafka
import flows.extract.postgres
import flows.extract.rest  # noqa: F401
from tests.flows import kill_child  # noqa: F401
from transforms import catalog, registry

for _table in registry.build_order():
    catalog.fingerprint(_table)

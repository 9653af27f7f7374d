"""One load by dlt into PostgreSQL, Parquet through ADBC. Runs in the rivals' environment.

Arguments: DSN, dataset, table, Parquet file, write disposition, working folder, SQL to run afterwards.
Prints seconds of the run and the SQL; starting Python and importing dlt are not counted.
"""

from __future__ import annotations

import os
import sys
import time

os.environ |= {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "CRITICAL",
    "NORMALIZE__PARQUET_NORMALIZER__ADD_DLT_LOAD_ID": "false",
    "NORMALIZE__PARQUET_NORMALIZER__ADD_DLT_ID": "false",
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
}

import dlt
import psycopg2
import pyarrow.parquet as pq


def main(dsn: str, dataset: str, table: str, path: str, disposition: str, folder: str, after: str) -> None:
    """Load the file; the pipeline's state lives in `folder`."""
    pipeline = dlt.pipeline(
        "rival", destination=dlt.destinations.postgres(dsn), dataset_name=dataset, pipelines_dir=folder
    )
    rows = dlt.resource(
        pq.ParquetFile(path).iter_batches(122_880),
        name=table,
        primary_key=("event_id", "event_time"),
        write_disposition=_merge(disposition),
    )
    begun = time.perf_counter()
    pipeline.run(rows, loader_file_format="parquet")
    if after:
        with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
            cursor.execute(after)
    print(time.perf_counter() - begun)


def _merge(disposition: str) -> object:
    name, _, strategy = disposition.partition(":")
    return {"disposition": name, "strategy": strategy} if strategy else name


if __name__ == "__main__":
    main(*sys.argv[1:])

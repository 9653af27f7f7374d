"""Loading one day of 500,000 events beside execute_values upserts and dlt, in an environment apart."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg

from flows.services import Services
from flows.stores.manifest import LakeFile
from flows.stores.publication import BuiltPartition
from flows.stores.publish import publish
from tests.benchmarks.environments import interpreter, seconds_of
from tests.benchmarks.events import DAY, LEAF, day_file, path_of
from tests.benchmarks.measure import Result, alternate, stopwatch
from tests.benchmarks.server import Server, forget, settle, state_of
from transforms import engine, registry

ROWS = 500_000
DLT = "1.31"
RIVALS = (f"dlt[postgres,parquet]=={DLT}.*", "adbc-driver-postgresql", "psycopg2-binary")
_CHANGED = "i % 100 = 0"
_INDEXES = (
    "alter table {0} add primary key (event_id, event_time); "
    "create index on {0} (user_id, event_time desc); "
    "create index on {0} (event_type, event_time desc); "
    "analyze {0}"
)
_AS_TEXT = (
    "event_id::text, user_id, event_type::text, event_time, page, session_id, properties::jsonb, "
    "anonymous_id, topic_rank, kafka_partition, kafka_offset"
)


def run(server: Server, full: bool) -> Iterator[Result]:
    """New day: attached. Present day of which 1 % changed: written as a difference. Rivals get their rows in
    memory (execute_values) or as Parquet with text for uuid and jsonb, which spares dlt those casts."""
    rounds = 4 if full else 3
    importlib.import_module(
        "adbc_driver_postgresql.dbapi"
    )  # brings pandas; nor are the rivals' imports counted
    with server.services() as services:
        sides = _Sides(services, interpreter("rivals", DLT, RIVALS))
        times = alternate(
            {
                "attach": sides.attach,
                "dlt append": lambda _: sides.dlt("append"),
                "execute_values": sides.execute_values,
                "dlt merge, new day": lambda _: sides.dlt("merge"),
                "diff": sides.diff,
                "execute_values, present day": sides.execute_values_again,
                "dlt merge, present day": lambda _: sides.dlt_again(),
            },
            rounds,
        )
    details = times.details(rows=ROWS, dlt=DLT)

    def against(rival: str, ours: str, claim: str, target: float) -> Result:
        return Result(claim, times.ratio(rival, ours), "×", target, "at least", None, details)

    yield against(
        "execute_values", "attach", "execute_values upserts into the indexed table ÷ publishing a day", 20
    )
    yield against(
        "execute_values, present day",
        "diff",
        "execute_values upserts of a present day, 1 % changed ÷ publishing the difference",
        20,
    )
    yield against("dlt append", "attach", "dlt append, same indexes afterwards ÷ publishing a day", 1.3)
    yield against(
        "dlt merge, new day",
        "attach",
        "dlt merge of a new day, same indexes afterwards ÷ publishing a day",
        2.5,
    )
    yield against(
        "dlt merge, present day",
        "diff",
        "dlt merge of a present day, 1 % changed, indexes in place ÷ publishing the difference",
        10,
    )


class _Sides:
    """Each side brings its table to the same rows; the first time each is asked to prove it."""

    def __init__(self, services: Services, python: Path) -> None:
        self.services = services
        self.python = python
        self.dsn = services.settings.require("warehouse_dsn")
        self.first = day_file(services.lake, DAY, ROWS, "first")
        self.second = day_file(services.lake, DAY, ROWS, "second", changed=_CHANGED)
        self.plain = [self._without_types(file) for file in (self.first, self.second)]
        self.folder = services.lake.root / "dlt"
        self.expected: dict[str, dict[str, object]] = {}

    def attach(self, _: int) -> float:
        forget(self.services, "fct_events", DAY, LEAF)
        settle(self.dsn)
        seconds = self._publish(self.first, "attach")
        self._prove("first", f"analytics.{LEAF}")
        return seconds

    def diff(self, _: int) -> float:
        if not self._is_published():
            self.attach(_)
        settle(self.dsn)
        seconds = self._publish(self.second, "diff")
        self._prove("second", f"analytics.{LEAF}")
        return seconds

    def execute_values(self, _: int) -> float:
        return self._upsert(0)

    def execute_values_again(self, _: int) -> float:
        """Into a table that holds the first content."""
        return self._upsert(1)

    def _upsert(self, version: int) -> float:
        table = "analytics.upserted"
        self._execute(
            f"drop table if exists {table}; "
            f"create table {table} (like analytics.fct_events including defaults including constraints)"
        )
        if version == 1:
            self._fill("upserted", self.first)
        self._execute(_INDEXES.format(table))
        settle(self.dsn)
        seconds = seconds_of(self.python, "upsert.py", self.dsn, table, str(self.plain[version]))
        self._execute(f"analyze {table}")
        self._prove("second" if version else "first", table)
        self._execute(f"drop table {table}")
        return seconds

    def dlt(self, disposition: str) -> float:
        self._execute("drop schema if exists rival cascade; drop schema if exists rival_staging cascade")
        shutil.rmtree(self.folder, ignore_errors=True)
        return self._dlt(disposition, 0)

    def dlt_again(self) -> float:
        if not self._rival_holds("first"):
            self.dlt("merge")
        return self._dlt("merge", 1)

    # ------------------------------------------------------------------------------------------ inside

    def _fill(self, name: str, file: LakeFile) -> None:
        warehouse = self.services.warehouse
        with warehouse.connect() as connection, engine.connect(keeps_order=True) as session:
            columns = warehouse.columns(connection, "analytics", name)
            warehouse.copy("analytics", name, columns, self.services.lake.read(session, [file]))

    def _dlt(self, disposition: str, version: int) -> float:
        table = "rival.events"
        settle(self.dsn)
        seconds = seconds_of(
            self.python,
            "dlt_load.py",
            _address(self.dsn),
            *table.split("."),
            str(self.plain[version]),
            disposition,
            str(self.folder),
            _INDEXES.format(table) if version == 0 else f"analyze {table}",
        )
        self._prove("second" if version else "first", table)
        return seconds

    def _publish(self, file: LakeFile, way: str) -> float:
        table = registry.table("fct_events")
        built = BuiltPartition(table.name, DAY, (file,), based_on={"benchmark": file.path})
        with stopwatch() as elapsed:
            done = publish(table, [built], warehouse=self.services.warehouse, lake=self.services.lake)
        assert done.ways == {DAY: way}, done
        return elapsed()

    def _prove(self, content: str, table: str) -> None:
        """The rows, the indexes and the statistics are those that every side ends with."""
        found = state_of(self.dsn, table, _AS_TEXT)
        expected = self.expected.setdefault(content, found)
        assert found == expected, f"{table} must hold the {content} content: {found}, not {expected}"
        assert found["rows"] == ROWS
        assert found["analyzed"]

    def _rival_holds(self, content: str) -> bool:
        with psycopg.connect(self.dsn) as connection:
            there = connection.execute("select to_regclass('rival.events') is not null").fetchone()
        return there == (True,) and state_of(self.dsn, "rival.events", _AS_TEXT) == self.expected.get(content)

    def _is_published(self) -> bool:
        with self.services.ledger() as ledger:
            state = ledger.states(["fct_events"]).get(("fct_events", DAY))
        return state is not None and state.files == (self.first,)

    def _without_types(self, file: LakeFile) -> Path:
        path = path_of(self.services.lake, file).with_suffix(".plain.parquet")
        with engine.connect(keeps_order=True) as session:
            session.execute(
                "copy (select * replace (event_id::varchar as event_id, properties::varchar as properties) "
                f"from read_parquet('{path_of(self.services.lake, file)}', hive_partitioning = false)) "
                f"to '{path}' (format parquet)"
            )
        return path

    def _execute(self, statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statements.encode())


def _address(dsn: str) -> str:
    """The DSN as the URL that dlt wants."""
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    return "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**parts)

"""The same rules through Great Expectations, on what stands in PostgreSQL: leaves that nobody sees yet, or
what is published.

not_null, between, accepted_values and matches become Great Expectations' own map expectations, which it
joins into one aggregate query; the others select the rows that break them. One batch for each table and
run, whatever the number of leaves, because a validation has a fixed price. Results hold counts, never
values.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import logging
import re
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import psycopg

from quality import session_settings
from quality.alive import kept_alive
from quality.deferred import deferred
from quality.messages import finding, passing, refused, without_kind
from quality.results import CheckResult, QualityError
from quality.rulebook import written_in
from quality.sql import (
    CONTENT,
    bind,
    bindings,
    broken_rows,
    columns_of,
    duplicates,
    is_float,
    is_text,
    portable_pattern,
    predicate,
    query_of,
    quote,
    rows_of,
)
from transforms.contract import Rule, Table

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite

NO_REFERENCES: Mapping[str, str] = {}
APPLICATION = "analytics checks"
"""What its sessions are called."""
_COUNTS_ONLY = {"result_format": "BASIC", "partial_unexpected_count": 0}
_EXACT_AS_FLOAT = 2**52
"""Great Expectations turns bounds into floats: up to here whole numbers keep their order as floats."""

_BIND = re.compile(r"(?<![:\w\\]):(?=\w)")


@dataclass
class _Session:
    """A data source with one connection. One thread at a time: it is given back for the next one."""

    source: Any
    batch_query: str = ""


_idle: defaultdict[str, SimpleQueue[_Session]] = defaultdict(SimpleQueue)
"""Sessions nobody uses, by warehouse: as many are opened as validations ever ran at once."""
_opening = threading.Lock()
_serial = itertools.count(1)


def warm_up() -> threading.Thread:
    """Import Great Expectations (4 to 6 s) in a thread beside other work; joining it is optional."""
    thread = threading.Thread(target=_import, name="great-expectations-import", daemon=True)
    thread.start()
    return thread


def close() -> None:
    """Give back the connections of every warehouse that was validated."""
    for sessions in _idle.values():
        while not sessions.empty():
            sessions.get_nowait().source.get_execution_engine().engine.dispose()


def validate(
    dsn: str,
    table: Table,
    rules: Sequence[Rule],
    relations: Sequence[str],
    references: Mapping[str, str] = NO_REFERENCES,
    partitions: Sequence[str] | None = None,
    only_partitions: bool = False,
) -> list[CheckResult]:
    """Hold `relations` together (unpublished leaves, or the published table) to `rules`, one result for each.

    `relations` are quoted or plain `schema.table` names; `references` is what stands after FROM for other
    tables, which are looked for in the schemas analytics and ops otherwise. `partitions` are the windows
    the content is complete for; with `only_partitions` nothing else of the relations is judged.
    The connection is read-only. Raises QualityError for a rule that can't be run, psycopg.OperationalError
    when the warehouse can't be reached or stops meanwhile.
    """
    query = rows_of(table, relations, partitions if only_partitions else None)
    bound = bindings(table, references, partitions)
    judged = suite(table, rules, bound)
    with _session(dsn) as session:
        outcomes = _run(session, table, judged, query)
    by_name = {outcome.expectation_config.meta["rule"]: outcome for outcome in outcomes}
    return [_result(table, rule, by_name[rule.name], partitions) for rule in rules]


def suite(
    table: Table, rules: Sequence[Rule], references: Mapping[str, str] = NO_REFERENCES
) -> ExpectationSuite:
    """The rules of `table` as an expectation suite, one expectation for each; its meta names the rule."""
    great_expectations = _import()
    found: list[Any] = [_expectation(rule, table, references) for rule in rules]
    # Built without `add_expectation`: that one writes to a store after each.
    made: ExpectationSuite = great_expectations.ExpectationSuite(name=table.name, expectations=found)
    return made


@cache
def _import() -> Any:
    with warnings.catch_warnings(), deferred("scipy.stats", "altair"):
        warnings.simplefilter("ignore")
        import great_expectations

        import quality.breaking_rows  # noqa: F401 - registers the expectation
    # 1.24 sends nothing home any more; its loggers still narrate every metric.
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    # A million objects that stay as long as the process: no garbage collection need look at them again.
    gc.freeze()
    return great_expectations


@contextmanager
def _session(dsn: str) -> Iterator[_Session]:
    """A session for this thread alone; one in which something was raised is not used again."""
    try:
        session = _idle[dsn].get_nowait()
    except Empty:
        session = _open(dsn)
    try:
        yield session
    except BaseException:
        session.source.get_execution_engine().engine.dispose()
        raise
    _idle[dsn].put(session)


@cache
def _context() -> Any:
    """The one context of this process: Great Expectations takes the newest one for the current one."""
    great_expectations = _import()
    base = importlib.import_module("great_expectations.data_context.types.base")
    return great_expectations.get_context(
        mode="ephemeral",
        project_config=base.DataContextConfig(
            store_backend_defaults=base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars={"globally": False},
            analytics_enabled=False,
        ),
    )


def _open(dsn: str) -> _Session:
    _import()
    from sqlalchemy import event

    def connect() -> psycopg.Connection[Any]:
        # Read-only, with the schemas of the names that a rule uses bare. The address stays out of the
        # configuration of Great Expectations, so no password can reach a result or a log.
        connection = psycopg.connect(kept_alive(dsn, APPLICATION))
        connection.execute(session_settings.whole().encode())
        connection.execute("select set_config('search_path', 'analytics, ops', false)")
        connection.execute("set default_transaction_read_only to on")
        connection.commit()
        return connection

    connect().close()  # says in psycopg's own words that a server can't be reached
    with _opening:
        source = _context().data_sources.add_postgres(
            f"warehouse {next(_serial)}",
            connection_string="postgresql+psycopg://checks@given-by-creator/warehouse",
            kwargs={"creator": connect, "pool_size": 1, "pool_pre_ping": True},
        )
    session = _Session(source)

    def describe_only(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, _details: Any, _many: bool
    ) -> tuple[str, Any]:
        # To learn the columns of a batch, Great Expectations runs its whole query and reads none of the
        # rows; the driver would still fetch them all (1.3 s for 2,000,000).
        if session.batch_query and statement.strip() == session.batch_query:
            statement = f"select * from ({statement}) as described limit 0"
        return statement, parameters

    event.listen(source.get_execution_engine().engine, "before_cursor_execute", describe_only, retval=True)
    return session


def _run(session: _Session, table: Table, suite: ExpectationSuite, query: str) -> list[Any]:
    session.batch_query = query
    asset = session.source.add_query_asset(f"{table.name} {len(session.source.assets)}", query=query)
    try:
        batch = asset.add_batch_definition_whole_table("all").get_batch()
        outcomes = list(batch.validate(suite, result_format=_COUNTS_ONLY).results)
    finally:
        session.source.delete_asset(asset.name)
        session.batch_query = ""
    return outcomes


def _vocabulary() -> Any:
    """The expectations of Great Expectations, re-exported there in a way that type checkers don't follow."""
    return importlib.import_module("great_expectations.expectations")


def _expectation(rule: Rule, table: Table, references: Mapping[str, str]) -> Any:
    gxe = _vocabulary()

    from quality.breaking_rows import ExpectNoBreakingRows

    about: dict[str, Any] = {
        "meta": {"rule": rule.name, "kind": rule.kind.value},
        "severity": rule.severity,
    }
    given = rule.arguments
    if rule.check == "not_null":
        return gxe.ExpectColumnValuesToNotBeNull(column=str(given["column"]), **about)
    if rule.check == "between" and _keeps_its_order(rule, table):
        return gxe.ExpectColumnValuesToBeBetween(
            column=str(given["column"]), min_value=given.get("min"), max_value=given.get("max"), **about
        )
    if rule.check == "accepted_values" and is_text(table, str(given["column"])):
        values = given["values"]
        if isinstance(values, list | tuple) and values and all(isinstance(value, str) for value in values):
            return gxe.ExpectColumnValuesToBeInSet(
                column=str(given["column"]), value_set=list(values), **about
            )
    if rule.check == "matches" and is_text(table, str(given["column"])):
        return gxe.ExpectColumnValuesToMatchRegex(
            column=str(given["column"]), regex=portable_pattern(rule, table), **about
        )
    return ExpectNoBreakingRows(unexpected_rows_query=_query(rule, table, references), **about)


def _keeps_its_order(rule: Rule, table: Table) -> bool:
    """Whether comparing as floats, which Great Expectations does, can't change the answer."""
    column = table.column(str(rule.arguments["column"]))
    bounds = [rule.arguments[word] for word in ("min", "max") if rule.arguments.get(word) is not None]
    if is_float(table, column.name):
        return False  # NaN
    if re.match(r"(?i)\s*(tiny|small|big)?int(eger)?\b", column.type):
        return all(type(bound) is int and abs(bound) <= _EXACT_AS_FLOAT for bound in bounds)
    decimal = re.match(r"(?i)\s*(?:decimal|numeric)\s*\(\s*(\d+)", column.type)
    if decimal and int(decimal[1]) <= 15:
        return all(type(bound) is int and abs(bound) <= 10**15 for bound in bounds)
    return False


def _query(rule: Rule, table: Table, references: Mapping[str, str]) -> str:
    """The select of the breaking rows, {batch} in it, escaped for str.format and for sqlalchemy's binds."""
    inner = bind(_breaking(rule, table, references), references)
    name = table.name if rule.check == "sql" else CONTENT
    # {batch} becomes `(…) AS subselect`, or in a query with a JOIN a bare `(…)`, which can be named: hence
    # one.
    content = (
        f"with {quote(name)} as not materialized "
        "(select batch.* from \0 as batch cross join (values (1)) as joined(one))\n"
    )
    text = content + f"select breaking.* from (\n{inner}\n) as breaking"
    escaped = _BIND.sub(r"\\:", text.replace("{", "{{").replace("}", "}}"))
    return escaped.replace("\0", "{batch}")


def _breaking(rule: Rule, table: Table, references: Mapping[str, str]) -> str:
    if rule.check == "sql":
        return query_of(rule)
    if rule.check == "unique":
        # One row for each copy. A distinct first column proves the rule, and the key's index gives it in
        # order, in a seventh of the time that grouping takes: rows are grouped only where that differs.
        first = quote(columns_of(rule)[0])
        twice = duplicates(rule, table)
        return (
            f"select 1 as copy from ({twice}) as twice, generate_series(1, twice.copies) where "
            f"(select count({first}) <> count(distinct {first}) from {CONTENT})"
        )
    if rule.check == "references":
        return f"select 1 as lost from {CONTENT} where {predicate(rule, table, 'postgres', references)}"
    return broken_rows(rule, table, "postgres", references)


def _result(table: Table, rule: Rule, outcome: Any, partitions: Sequence[str] | None) -> CheckResult:
    raised = outcome.exception_info or {}
    nested = [entry for entry in raised.values() if isinstance(entry, Mapping)] or [raised]
    for entry in nested:
        if entry.get("raised_exception"):
            message = str(entry.get("exception_message"))
            problem = refused(message)
            if kind := passing(message):
                raise kind(
                    f"{table.name}: rule {rule.name} could not be checked in the warehouse: "
                    f"{without_kind(problem)}"
                )
            raise QualityError(
                f"{table.name}: rule {rule.name} ({written_in(rule, table)}) can't be run through "
                f"Great Expectations: {problem}"
            )
    found = outcome.result
    failing = int(found.get("unexpected_count", found.get("observed_value")) or 0)
    return finding(table, rule, "great_expectations", failing, found.get("element_count"), partitions, {})

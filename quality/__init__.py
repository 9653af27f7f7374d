"""Claims about tables, and whether they hold: in DuckDB before a load, through Great Expectations after it.

Importing this package imports neither Great Expectations nor sqlalchemy: `quality.expectations` does so
when it is used.
"""

from __future__ import annotations

from quality.gate import check, failing_rows
from quality.results import CheckResult, QualityError, blocking, render
from quality.rulebook import all_rules, describe, hold_to_form, rules, scheduled_rules
from quality.sql import CONTROL_TOTALS, arrivals, breaking_query, columns_of, requires

__all__ = [
    "CONTROL_TOTALS",
    "CheckResult",
    "QualityError",
    "all_rules",
    "arrivals",
    "blocking",
    "breaking_query",
    "check",
    "columns_of",
    "describe",
    "failing_rows",
    "hold_to_form",
    "render",
    "requires",
    "rules",
    "scheduled_rules",
]

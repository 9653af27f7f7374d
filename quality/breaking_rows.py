"""The one expectation of our own: a query that selects the rows that break a rule, counted.

Importing this module imports Great Expectations (seconds): only quality.expectations does, when it is used.
"""

from __future__ import annotations

from typing import Any, ClassVar

from great_expectations.expectations.core.unexpected_rows_expectation import UnexpectedRowsExpectation


class ExpectNoBreakingRows(UnexpectedRowsExpectation):
    """Like its parent, but the query runs once, for the count: no row, no personal data, enters a result."""

    metric_dependencies: ClassVar[tuple[str, ...]] = ("unexpected_rows_query.row_count",)

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,  # noqa: ARG002 - its parent calls it with these
        execution_engine: Any = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        count = metrics["unexpected_rows_query.row_count"]
        return {"success": count == 0, "result": {"observed_value": count}}

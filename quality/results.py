"""What a check found, and how people read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from transforms.contract import ContractError, RuleKind, Severity

Engine = Literal["duckdb", "great_expectations", "postgresql"]
"""Who judged, and so what: `duckdb` new content before it is loaded, `great_expectations` what stands in
PostgreSQL, `postgresql` what the stream wrote there, against what the batch computed.
"""


class QualityError(ContractError):
    """A rule can't be run as it is written; the message names the rule, its file and what to change."""


@dataclass(frozen=True)
class CheckResult:
    """One rule held against one content of one table.

    `partition` is the window that was judged, '' where several were judged together or the table has none.
    `failing_rows` counts rows for row-level and unique rules (every copy of a duplicate counts), and rows
    of the rule's own select for sql rules. `observed` is JSON-ready and holds counts, never a value of the
    table; where stream and batch differ the keys of the rows, too.
    """

    table: str
    partition: str
    rule: str
    kind: RuleKind
    severity: Severity
    engine: Engine
    passed: bool
    failing_rows: int
    observed: Mapping[str, object] = field(default_factory=dict)
    message: str = ""

    @property
    def blocks(self) -> bool:
        """Whether this result keeps its table from being published: a failed critical rule does.

        Timeliness never does: what is late would only become later.
        """
        return self.is_failure and self.kind is not RuleKind.TIMELINESS

    @property
    def is_failure(self) -> bool:
        """Whether `check` ends with exit code 1 because of this result."""
        return not self.passed and self.severity == "critical"


def blocking(results: Iterable[CheckResult]) -> list[CheckResult]:
    """The results that keep their tables from being published, worst first."""
    return sorted((result for result in results if result.blocks), key=lambda result: -result.failing_rows)


def render(results: Sequence[CheckResult]) -> str:
    """The results as a plain-text table, failures first, with one sentence for each failure below it."""
    if not results:
        return "No rule was checked."
    head = ("", "table", "rule", "kind", "failing", "partition")
    ordered = sorted(results, key=lambda result: (result.passed, result.table, result.kind, result.rule))
    rows = [
        (
            "ok" if result.passed else ("FAILED" if result.is_failure else result.severity),
            result.table,
            result.rule,
            result.kind.value,
            f"{result.failing_rows:,}",
            result.partition or "all",
        )
        for result in ordered
    ]
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if at == 4 else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    broken = [result.message for result in ordered if not result.passed]
    passed = len(results) - len(broken)
    closing = f"{passed} of {len(results)} checks passed."
    return "\n".join([line(head), *map(line, rows), "", *broken, closing])

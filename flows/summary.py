"""What a run did, in words and in JSON: the closing message, the artifacts in Prefect, the row in ops.run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flows.counted import counted
from flows.readable import readable

FAILED = ("Failed", "Crashed", "TimedOut")
"""States in ops.run, and of Prefect, of a run that did not come to a good end."""
AT_WORK = ("PENDING", "RUNNING", "CANCELLING")
"""Types of Prefect's states of what has a process, or is about to have one."""


@dataclass
class TableSummary:
    """One published table after a run: its rows in all, and what this run changed of it."""

    rows: int = 0
    windows: list[str] = field(default_factory=list)
    rows_written: int = 0

    @property
    def partitions(self) -> int:
        """Partitions whose content changed."""
        return len(self.windows)


@dataclass
class Summary:
    """What a run did. JSON through `as_json`."""

    run_id: str
    flow: str
    selected: list[str] = field(default_factory=list)
    """The models that it was narrowed to; empty: all of them."""
    landed: dict[str, int] = field(default_factory=dict)
    tables: dict[str, TableSummary] = field(default_factory=dict)
    checks: int = 0
    checks_passed: int = 0
    warnings: list[str] = field(default_factory=list)
    dead_letters: int = 0
    pending: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    was_stopped: bool = False
    """By somebody, or because its time was up."""
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0
    is_cancelled: bool = False
    """Whether somebody ended it who did not want it any more."""
    steps: dict[str, float] = field(default_factory=dict)
    """Seconds of each landing, build, check and refresh, from its start to its end; they run side by side."""
    has_pages: bool = False
    """Whether the portal shows how it ended: its pages are the last thing that a run writes."""

    def table(self, name: str) -> TableSummary:
        """The line of one published table."""
        return self.tables.setdefault(name, TableSummary())

    def took(self, step: str, seconds: float) -> None:
        """Add what a task of a step took."""
        self.steps[step] = round(self.steps.get(step, 0.0) + seconds, 2)

    def fail(self, name: str, why: str) -> None:
        """Say what failed of a table. Those that fail by one cause are one line: `NAME, NAME: why`."""
        for place, line in enumerate(self.failures):
            names = line.removesuffix(f": {why}")
            if names != line and " " not in names.replace(", ", ""):
                if name not in names.split(", "):
                    self.failures[place] = f"{names}, {name}: {why}"
                return
        self.failures.append(f"{name}: {why}")

    def skip(self, names: Collection[str], needed: str, why: str) -> None:
        """Say what this run leaves as it was because a table that all of it needs `failed`, or `waits`."""
        if names:
            self.skipped.append(f"{', '.join(sorted(names))}: they need {needed}, which {why}")

    def has_changed(self, name: str) -> bool:
        """Whether this run published something of the table."""
        return name in self.tables and bool(self.tables[name].windows)

    @property
    def state(self) -> str:
        """How it ended, in a word of ops.run."""
        if self.is_cancelled:
            return "Cancelled"
        return "Failed" if self.failures else "Completed"

    @property
    def partitions(self) -> int:
        """Partitions of published tables whose content changed."""
        return sum(table.partitions for table in self.tables.values())

    def as_json(self) -> dict[str, Any]:
        """JSON values, as PostgreSQL takes them."""
        found = asdict(self)
        foreign = ("warnings", "pending", "failures", "skipped")
        return found | {name: [readable(line) for line in found[name]] for name in foreign}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Summary:
        """The summary that `as_json` gave."""
        fields = {**value, "tables": {name: TableSummary(**table) for name, table in value["tables"].items()}}
        return cls(**fields)

    def lines(self) -> list[str]:
        """The closing message: rows per table, then one line each for what was done and what went wrong."""
        width = max((len(name) for name in self.tables), default=10)
        found = [f"  {'table':<{width}}  {'rows':>12}  {'written':>10}  partitions"]
        for name, table in sorted(self.tables.items()):
            changed = str(table.partitions) if table.partitions else "unchanged"
            found.append(f"  {name:<{width}}  {table.rows:>12,}  {table.rows_written:>10,}  {changed}")
        landed = sum(self.landed.values())
        found.append("")
        found.append(
            f"{counted(landed, 'row')} landed, {counted(self.partitions, 'partition')} published, "
            f"{self.checks_passed:,} of {self.checks:,} checks passed, "
            f"{counted(self.dead_letters, 'dead letter')}, "
            f"{self.seconds:.1f} s."
        )
        found += [f"warning: {line}" for line in self.warnings]
        found += [f"pending: {line}" for line in self.pending]
        found += [f"skipped: {line}" for line in self.skipped]
        found += [f"FAILED:  {line}" for line in self.failures]
        return found

    def markdown(self) -> str:
        """The table of what was published, for Prefect's artifacts."""
        rows = [
            f"| {name} | {table.rows:,} | {table.rows_written:,} | {table.partitions:,} |"
            for name, table in sorted(self.tables.items())
        ]
        notes = [f"- {line}" for line in (*self.failures, *self.skipped, *self.pending, *self.warnings)]
        head = ["| table | rows | written | partitions |", "|---|---:|---:|---:|"]
        return "\n".join([*head, *rows, "", *notes])

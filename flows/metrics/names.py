"""Every metric there is: its name, its kind, what it says, its labels. Nothing is emitted that is not here.

Names follow Prometheus: a unit as suffix, `_total` for what only grows. Labels have few values, all of them
known from declarations: tables, flows, severities. `docs/metrics/` has alert rules and a dashboard over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

LATENCY_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds in seconds; a minute is what real-time tables promise."""


@dataclass(frozen=True)
class Metric:
    """One metric, under the name by which it is asked for."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    def family(self) -> Any:
        """An empty family of it, to add samples to."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        kinds: dict[str, Callable[..., Family]] = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        return kinds[self.kind](self.name.removesuffix("_total"), self.help, labels=self.labels)

    @property
    def exposed(self) -> tuple[str, ...]:
        """The names of its samples."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "count", "sum"))
        return (self.name,)


def families(found: Mapping[Metric, Iterable[tuple[Sequence[str], float]]]) -> Iterator[Any]:
    """One family for each metric, of its samples: values of its labels, and the number."""
    for metric, samples in found.items():
        family = metric.family()
        for labels, value in samples:
            family.add_metric(list(labels), value)
        yield family


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"analytics_{name}_total", "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"analytics_{name}", "gauge", text, labels)


# The stream's endpoint. `stream` is `events` or `changes`.
STREAM_MESSAGES = _counter("stream_messages", "Messages taken in since the process began.", "stream")
STREAM_BYTES = _counter("stream_bytes", "Bytes of these messages, as held in memory.", "stream")
STREAM_ROWS = _counter("stream_rows", "Rows written for them.", "stream")
STREAM_COPIES = _counter("stream_copies", "Messages left out as copies of others.", "stream")
STREAM_DEAD_LETTERS = _counter("stream_dead_letters", "Messages that could not be read.", "stream")
STREAM_BATCHES = _counter("stream_batches", "Micro-batches, each one transaction.", "stream")
STREAM_INTERRUPTIONS = _counter("stream_interruptions", "Times a service was away.", "stream")
STREAM_LAG = _gauge("stream_lag_messages", "Messages that wait, as last seen.", "stream")
STREAM_LATENCY = Metric(
    "analytics_stream_latency_seconds",
    "histogram",
    "From the broker's timestamp of a micro-batch's oldest message to its commit.",
    ("stream",),
)
STREAM = (
    STREAM_MESSAGES,
    STREAM_BYTES,
    STREAM_ROWS,
    STREAM_COPIES,
    STREAM_DEAD_LETTERS,
    STREAM_BATCHES,
    STREAM_INTERRUPTIONS,
    STREAM_LAG,
    STREAM_LATENCY,
)

# The textfile of a run; `flow` is which.
RUN_SUCCESS = _gauge("run_success", "1 when the last run completed, 0 when it failed.", "flow")
RUN_END = _gauge("run_end_timestamp_seconds", "When it ended, seconds since 1970.", "flow")
RUN_SECONDS = _gauge("run_duration_seconds", "How long it took.", "flow")
RUN_LANDED_ROWS = _gauge("run_landed_rows", "Rows it landed of a raw table.", "flow", "table")
RUN_LANDED_BYTES = _gauge("run_landed_bytes", "Bytes of the files it landed them in.", "flow", "table")
RUN_WRITTEN_ROWS = _gauge(
    "run_written_rows", "Rows it wrote or removed of a published table.", "flow", "table"
)
RUN_CHECKS = _gauge("run_checks", "Rules it held content to; outcome is passed or failed.", "flow", "outcome")
RUN_DEAD_LETTERS = _gauge("run_dead_letters", "Records it could not read.", "flow")
RUN = (
    RUN_SUCCESS,
    RUN_END,
    RUN_SECONDS,
    RUN_LANDED_ROWS,
    RUN_LANDED_BYTES,
    RUN_WRITTEN_ROWS,
    RUN_CHECKS,
    RUN_DEAD_LETTERS,
)

# What the warehouse knows: `python -m flows metrics`.
TABLE_ROWS = _gauge("table_rows", "Rows of a built table.", "table")
TABLE_PUBLISHED = _gauge("table_published_timestamp_seconds", "When something of it was published.", "table")
TABLE_AGE = _gauge(
    "table_freshness_seconds", "How far a table is behind, as the monitor measures it.", "table"
)
TABLE_AGE_LIMIT = _gauge("table_freshness_limit_seconds", "How far behind it may be.", "table")
RULES_CHECKED = _gauge("rules_checked", "Rules a table was held to last.", "table")
RULES_FAILED = _gauge("rules_failed", "Those of them that failed.", "table", "severity")
FAILING_ROWS = _gauge("rules_failing_rows", "Rows that broke them, of the rule that most did.", "table")
DEAD_LETTERS = _gauge("dead_letters_waiting", "Records that wait to be repaired and replayed.", "source")
HEALTH = _gauge("health_signals", "Subjects of a signal by how it stands.", "signal", "state")
MEASURED = _gauge("monitor_measured_timestamp_seconds", "When the monitor measured last.")
INCIDENTS = _gauge("incidents_open", "Open incidents.", "severity")
UNSENT = _gauge("notifications_unsent", "Messages that a channel has not taken.", "channel")
SUCCESS = _gauge("flow_success_timestamp_seconds", "When a flow completed last.", "flow")
SLA_SHARE = _gauge("sla_kept_ratio", "Share of a promise that was kept over 30 days.", "objective")
SLA_TARGET = _gauge("sla_target_ratio", "Share that was promised.", "objective")
SLA_LEFT = _gauge("sla_budget_left_ratio", "Share of its error budget that is left.", "objective")
SLA_BURN = _gauge("sla_burn_rate_ratio", "Times as fast as it may its budget burns.", "objective", "alert")
SLA_UNMEASURED = _gauge("sla_unmeasured_minutes", "Minutes in which nobody measured.", "objective")
WAREHOUSE = (
    TABLE_ROWS,
    TABLE_PUBLISHED,
    TABLE_AGE,
    TABLE_AGE_LIMIT,
    RULES_CHECKED,
    RULES_FAILED,
    FAILING_ROWS,
    DEAD_LETTERS,
    HEALTH,
    MEASURED,
    INCIDENTS,
    UNSENT,
    SUCCESS,
    SLA_SHARE,
    SLA_TARGET,
    SLA_LEFT,
    SLA_BURN,
    SLA_UNMEASURED,
)

# The textfile of the monitor's last look; what the warehouse tells too has one name in both.
VERDICT = _gauge(
    "monitor_verdict",
    "The worst verdict: 0 ok, 1 unknown, 2 warning, 3 critical; of no table where it is of something else.",
    "signal",
    "table",
)
LOOK_SECONDS = _gauge("monitor_look_seconds", "How long the last look took, alerts and all.")
MONITOR = (
    VERDICT,
    LOOK_SECONDS,
    MEASURED,
    TABLE_AGE,
    TABLE_AGE_LIMIT,
    INCIDENTS,
    SLA_SHARE,
    SLA_TARGET,
    SLA_LEFT,
    SLA_BURN,
    SLA_UNMEASURED,
)
ALL = tuple(dict.fromkeys((*STREAM, *RUN, *WAREHOUSE, *MONITOR)))

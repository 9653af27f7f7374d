"""The stream's numbers, read from its tallies when somebody asks: nothing is added to its work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from flows.metrics import names
from flows.metrics.names import Metric
from flows.streaming.tally import Count


class StreamNumbers:
    """A collector for prometheus_client over what streams count; `tallies` by the label `stream`."""

    def __init__(self, tallies: Mapping[str, Count]) -> None:
        self._tallies = tallies

    def collect(self) -> Iterator[Any]:
        """One family for each metric of the stream."""
        values: dict[Metric, str] = {
            names.STREAM_MESSAGES: "messages",
            names.STREAM_BYTES: "bytes",
            names.STREAM_ROWS: "rows",
            names.STREAM_COPIES: "copies",
            names.STREAM_DEAD_LETTERS: "dead_letters",
            names.STREAM_BATCHES: "batches",
            names.STREAM_INTERRUPTIONS: "interruptions",
            names.STREAM_LAG: "lag",
        }
        for metric, attribute in values.items():
            family = metric.family()
            for stream, tally in self._tallies.items():
                family.add_metric([stream], getattr(tally, attribute))
            yield family
        family = names.STREAM_LATENCY.family()
        bounds = [*map(str, names.LATENCY_BUCKETS), "+Inf"]
        for stream, tally in self._tallies.items():
            buckets = list(zip(bounds, accumulate(tally.waited), strict=True))
            family.add_metric([stream], buckets, tally.waited_seconds)
        yield family

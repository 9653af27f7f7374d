"""What Prometheus reads of a stream that lives."""

from __future__ import annotations

import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows import stream
from flows.progress import Progress
from flows.streaming.tally import Count
from tests.flows.streaming.topics import Topics, until
from tests.house import House


class Asking(Progress):
    """What a stream says; whenever it says how it is doing, its numbers are asked for."""

    def __init__(self) -> None:
        super().__init__("stream", io.StringIO())
        self.url = ""
        self.asked: dict[str, float] = {}
        self.lags: list[tuple[float, int]] = []
        """As it was asked for, and as it was said."""

    def say(self, part: str, message: str, level: int = 0) -> None:
        if part == "metrics":
            self.url = message
        elif waiting := re.search(r"([\d,]+) messages wait", message):
            self.asked = self.ask()
            self.lags.append((self.asked["lag_messages"], int(waiting[1].replace(",", ""))))

    def ask(self) -> dict[str, float]:
        """What Prometheus reads of the stream of events: name, and bound of a bucket → value."""
        text = httpx.get(self.url, trust_env=False, timeout=30).raise_for_status().text
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels["stream"] == "events":
                    name = sample.name.removeprefix("analytics_stream_")
                    found[f"{name} {sample.labels.get('le', '')}".strip()] = sample.value
        return found


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path, metrics_port=0)


def test_who_asks_a_living_stream_reads_what_it_has_taken_in_and_what_waits(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.streaming.consumer.MOST_MESSAGES", 100)
    monkeypatch.setattr("flows.streaming.consumer.FEWEST_MESSAGES", 100)
    monkeypatch.setattr("flows.streaming.tally._SHOW_EVERY_SECONDS", 0.0)
    # One copy in the same micro-batch, one in another.
    events = [topics.event(number) for number in range(500)]
    topics.send([events[0], *events, events[0], b"{"])
    services, progress, stop = topics.world.services(), Asking(), threading.Event()
    with services.lake, ThreadPoolExecutor(1) as pool:
        living = pool.submit(stream.live, services, topics.way, [], progress, stop=stop, seconds=240)

        def reaches(name: str, value: int) -> None:
            until(lambda: living.done() or progress.asked.get(name) == value)
            assert not living.done(), living.result()

        try:
            reaches("messages_total", 503)
            topics.send(topics.event(number) for number in range(500, 510))
            reaches("messages_total", 513)
            reaches("lag_messages", 0)
            found = progress.ask()
        finally:
            stop.set()
    tally, _ = living.result(60)
    assert (tally.messages, tally.rows, tally.copies, tally.dead_letters) == (513, 510, 2, 1)
    assert {name: found[name] for name in ("rows_total", "copies_total", "dead_letters_total")} == {
        "rows_total": 510,
        "copies_total": 2,
        "dead_letters_total": 1,
    }
    assert found["bytes_total"] == tally.bytes > 0
    assert found["interruptions_total"] == 0
    # One latency for each micro-batch, in the buckets as in the tally.
    assert found["batches_total"] == found["latency_seconds_count"] == tally.batches >= 7
    assert found["latency_seconds_sum"] == pytest.approx(sum(tally.latencies))
    assert found["latency_seconds_sum"] > 0
    for bound in (0.05, 1.0, 300.0):
        counted = sum(latency <= bound for latency in tally.latencies)
        assert found[f"latency_seconds_bucket {bound}"] == counted
    assert found["latency_seconds_bucket +Inf"] == tally.batches
    # What waits was told while it waited: what people read in that very moment is what was scraped.
    assert progress.lags
    assert all(asked == said for asked, said in progress.lags)
    assert max(said for _, said in progress.lags) > 300
    assert progress.lags[-1] == (0.0, 0)
    with services.warehouse.connect() as connection:
        ended = connection.execute(
            "select bool_and(ended_at is not null) from ops.stream_progress"
        ).fetchone()
    assert ended == (True,), "one that ends because it was to says so"
    with pytest.raises(httpx.ConnectError):
        progress.ask()


def test_the_latency_is_that_of_the_last_minutes_however_little_came() -> None:
    count = Count()
    assert count.latency(at=0) == (0, 0)
    for moment in range(3):
        count.took(360, at=moment)
    assert count.latency(at=60) == (360, 360)
    count.took(0.5, at=200)
    assert count.latency(at=250) == (360, 360)
    assert count.latency(at=320) == (0.5, 0.5)
    assert count.latency(at=20_000) == (0.5, 0.5)
    for moment in range(400):
        count.took(0.25 if moment < 200 else 0.125, at=20_000 + moment / 10)
    assert count.latency(at=20_040) == (0.125, 0.125)

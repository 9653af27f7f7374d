"""stream_lag, stream_latency: what waits for the streams, and how soon what they take in is seen."""

from __future__ import annotations

from collections.abc import Iterator

from flows.counted import counted
from flows.durations import spoken
from flows.monitoring.freshness import REAL_TIME
from flows.monitoring.verdict import State, Verdict
from flows.monitoring.watch import Stream, Watch

LAG, LATENCY = "stream_lag", "stream_latency"
MOST_SECONDS = 5.0
"""p99 from the broker's timestamp, or the source's commit, to the row."""
CATCHES_UP_WITHIN = 300.0
"""Seconds of work that may wait."""
LEAST_LAG = 1_000
"""Messages that wait in an ordinary second."""


def lag(watch: Watch) -> Iterator[Verdict]:
    """Each kind of stream that was there: messages that wait, and whether it lives. One that ended because it
    was to is well; one that died is not, until it runs again or somebody says that it is not to
    (`alerts end`).
    """
    for kind, stream in watch.streams.items():
        limit = max(LEAST_LAG, stream.rate * CATCHES_UP_WITHIN)
        subject = f"stream:{kind}"
        if stream.is_over:
            yield watch.says(LAG, subject, None, limit, "messages", observed={"ended": True})
            continue
        if not stream.is_there:
            yield watch.says(
                LAG,
                subject,
                stream.age,
                REAL_TIME.total_seconds(),
                "s",
                state=State.WARNING,
                message=f"The stream of {kind} has said nothing for {spoken(stream.age)}.",
                action="Start it: python -m flows stream, or its deployment. If it is not to come back: "
                "python -m flows alerts end ID.",
                observed={"waiting": stream.lag},
            )
            continue
        is_late = stream.lag > limit
        yield watch.says(
            LAG,
            subject,
            float(stream.lag),
            limit,
            "messages",
            state=State.WARNING if is_late else State.OK,
            message=f"The stream of {kind} has {counted(stream.lag, 'message')} before it and takes in "
            f"{stream.rate:,.0f} a second."
            if is_late
            else "",
            action="Start another (python -m flows stream): they share the partitions.",
        )


def latency(watch: Watch) -> Iterator[Verdict]:
    """Each kind of stream that lives: seconds until a row is seen, 99 of 100."""
    for kind, stream in watch.streams.items():
        if stream.is_there:
            yield _slow(watch, kind, stream)


def _slow(watch: Watch, kind: str, stream: Stream) -> Verdict:
    is_slow = stream.behind > MOST_SECONDS
    return watch.says(
        LATENCY,
        f"stream:{kind}",
        stream.behind,
        MOST_SECONDS,
        "s",
        state=State.WARNING if is_slow else State.OK,
        message=f"What comes to the stream of {kind} is seen after {stream.behind:,.1f} s."
        if is_slow
        else "",
        action="See what else the machine does, and the stream's own lines; a backlog shows as stream_lag.",
    )

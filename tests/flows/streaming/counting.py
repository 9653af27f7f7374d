"""What windowed counts have to be: of the events that count, and as their topic was told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.flows.streaming.topics import Topics

FIVE = timedelta(minutes=5)
Window = tuple[int, datetime]


def start(moment: datetime) -> datetime:
    """Where the window of a moment begins."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return moment - since % FIVE


def counted(events: Iterable[Mapping[str, Any]]) -> Counter[Window]:
    """The model in a line: events per user and five minutes."""
    return Counter((e["user_id"], start(datetime.fromisoformat(e["event_time"]))) for e in events)


def published(topics: Topics) -> Counter[Window]:
    """The counts as they stand in the warehouse."""
    return Counter({window: count for window, (count, _, _) in topics.counts().items()})


def assert_told_once(topics: Topics) -> None:
    """The topic holds every revision of every window, from the first to the published one, in order."""
    told, there = topics.told(), topics.counts()
    for window, revisions in told.items():
        assert [revision for _, revision, _ in revisions] == list(range(1, len(revisions) + 1)), window
        last = revisions[-1]
        assert there.get(window, (0, last[1], last[2])) == last, window
    assert there.keys() <= told.keys()


def assert_agreed(topics: Topics, events: Iterable[Mapping[str, Any]]) -> None:
    """These events stand in the warehouse and are counted, before a batch and after it; the batch computes
    the same of the lake, of which nothing is left over; and each revision of a count was told once.
    """
    expected = counted(events)
    # What came too late for its window is put aside, and the batch's to count.
    late = topics.rows(
        "select user_id, window_start, sum(event_count)::bigint from ops.user_event_counts_late group by 1, 2"
    )
    aside = Counter({(user, at): count for user, at, count in late})
    assert published(topics) + aside == expected
    before = topics.rows()
    topics.batch()
    assert topics.rows() == before
    assert all(result.passed for result in topics.reconcile())
    assert topics.rows() == before
    assert published(topics) == expected
    assert topics.rows("select * from ops.user_event_counts_late") == []
    assert topics.rows("select count(*) from ops.outbox") == [(0,)]
    assert_told_once(topics)
    assert all(result.passed for result in topics.reconcile(sealed_too=True))
    assert topics.left_over() == []


def without_copies(
    sent: Sequence[tuple[int, int, int]],
) -> Iterator[tuple[int, int, int]]:
    """Of (number, partition, offset) what counts: of each number the lowest partition, then offset."""
    best: dict[int, tuple[int, int]] = {}
    for number, partition, offset in sent:
        best[number] = min(best.get(number, (partition, offset)), (partition, offset))
    for number in sorted(best):
        yield number, *best[number]

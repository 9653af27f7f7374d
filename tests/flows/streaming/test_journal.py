"""Who may move a partition's position, and when it counts as read to its end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flows.stores.manifest import LakeFile
from flows.streaming.journal import Claim, Fenced, Journal, Journaled
from flows.streaming.watermark import IDLE_AFTER
from tests.flows.extract.parts import World
from tests.flows.warehouses import with_tables
from tests.house import House

RAW = "raw_events__user_events"


@pytest.fixture
def journal(house: House, tmp_path: Path) -> Iterator[Journal]:
    world = World("host=127.0.0.1 port=1", with_tables(house.server()), tmp_path / "lake")
    with world.services().warehouse.connect() as connection:
        yield Journal(connection)


def _commit(journal: Journal, claim: Claim, after: int, latest: datetime | None = None) -> None:
    file = LakeFile(RAW, "raw", "", f"raw/{after}.parquet", 3, 1, "")
    spans = {0: (claim.next_offset, after)}
    batch = Journaled(f"b{after}", RAW, "id", spans, {}, file, latest={0: latest} if latest else {})
    with journal.connection.transaction():
        journal.enter(batch, {0: claim})


@pytest.mark.parametrize("read_to", [8, 5, 2])
def test_where_a_batch_has_read_a_topic_itself_no_older_claim_can_commit(
    journal: Journal, read_to: int
) -> None:
    """However far it came: also where it found nothing that the stream had not seen."""
    claim = journal.take(RAW, {0: 5}, "stream")[0]

    journal.fence(RAW, {"0": read_to}, [], journal.now())

    with pytest.raises(Fenced, match="taken it over"):
        _commit(journal, claim, after=9)
    assert journal.positions(RAW)["offsets"] == {"0": max(5, read_to)}


def test_the_end_of_a_partition_is_noted_by_who_has_it_and_has_committed_what_was_read(
    journal: Journal,
) -> None:
    old = journal.take(RAW, {0: 5}, "one")[0]
    claim = journal.take(RAW, {0: 5}, "another")[0]
    noted = "select ended_at from ops.stream_partition"

    for given_up in (old, Claim(claim.generation, 9)):
        journal.ended(journal.now(), {(RAW, 0): given_up})
        assert journal.connection.execute(noted).fetchall() == [(None,)]

    journal.ended(asked_at := journal.now(), {(RAW, 0): claim})
    journal.ended(asked_at - timedelta(minutes=1), {(RAW, 0): claim})
    assert journal.connection.execute(noted).fetchall() == [(asked_at,)]


def test_a_partition_is_idle_once_nothing_came_of_it_for_so_long_before_its_end_was_noted(
    journal: Journal,
) -> None:
    claim, latest = journal.take(RAW, {0: 0}, "stream")[0], journal.now() - timedelta(hours=3)
    _commit(journal, claim, 3, latest)
    ((moved,),) = journal.connection.execute("select moved_at from ops.stream_partition").fetchall()

    def idle(since: timedelta) -> datetime | None:
        journal.ended(moved + since, {(RAW, 0): Claim(claim.generation, 3)})
        (progress,) = journal.progress([RAW], lambda moment: moment)
        assert progress.latest == latest
        return progress.idle

    assert idle(IDLE_AFTER - timedelta(microseconds=1)) is None
    assert idle(IDLE_AFTER) == moved
    assert idle(IDLE_AFTER + timedelta(minutes=1)) == moved + timedelta(minutes=1)

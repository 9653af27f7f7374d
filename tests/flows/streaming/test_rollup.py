"""Small raw files of the stream become one, and nobody who reads them sees a difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.maintenance.tidying import join_landed
from flows.streaming import rollup, taking_in
from flows.streaming.replays import Missing
from tests.flows.streaming.topics import Topics
from tests.house import House
from transforms import registry

BATCHES, EVENTS = 4, 50
LANDINGS = 3


@pytest.fixture
def topics(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topics:
    """What four micro-batches took in, not landed yet."""
    topics = Topics.build(house, tmp_path)
    _take_in(topics, monkeypatch, range(BATCHES))
    return topics


def _take_in(topics: Topics, monkeypatch: pytest.MonkeyPatch, numbers: range) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(taking_in, "land", lambda *_, **__: None)
        for number in numbers:
            events = (topics.event(EVENTS * number + i, minutes=number * 600) for i in range(EVENTS))
            topics.send(events, partition=number % 2)
            topics.stream()


def _journal(topics: Topics) -> list[tuple[object, ...]]:
    return topics.rows(
        "select offsets, (select sum(value::int) from jsonb_each_text(windows)), row_count "
        "from ops.stream_batch order by sequence"
    )


def _raw_files(topics: Topics) -> list[Path]:
    return [path for path in Path(topics.world.lake).rglob("raw/**/*.parquet") if "user_events" in str(path)]


def test_small_files_become_one_that_stands_for_all_of_them(topics: Topics) -> None:
    assert len(_journal(topics)) == len(_raw_files(topics)) == BATCHES

    assert topics.roll_up() == BATCHES * EVENTS

    offsets = {"0": [0, 2 * EVENTS], "1": [0, 2 * EVENTS]}
    assert _journal(topics) == [(offsets, BATCHES * EVENTS, BATCHES * EVENTS)]
    assert len(_raw_files(topics)) == 1
    before = topics.rows()
    topics.batch()
    assert topics.rows() == before
    assert len(topics.raw_places()) == len(set(topics.raw_places())) == BATCHES * EVENTS
    assert all(result.passed for result in topics.reconcile())


def test_files_between_whose_offsets_something_is_missing_stay_apart(topics: Topics) -> None:
    """One that stood for both would say that the lake has what nobody read."""
    first, further = f'{{"0": [{EVENTS}, {2 * EVENTS}]}}', f'{{"0": [{EVENTS + 9}, {2 * EVENTS}]}}'
    moved = f"update ops.stream_batch set offsets = '{further}' where offsets = '{first}' returning true"
    assert topics.rows(moved) == [(True,)]

    topics.roll_up()

    assert [offsets for offsets, _, _ in _journal(topics)] == [
        {"0": [0, EVENTS], "1": [0, EVENTS]},
        {"0": [EVENTS + 9, 2 * EVENTS], "1": [EVENTS, 2 * EVENTS]},
    ]


def test_large_files_are_landed_as_they_are(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollup, "FULL_ROWS", EVENTS)
    files = set(_raw_files(topics))

    assert topics.roll_up() == BATCHES * EVENTS
    assert len(_journal(topics)) == BATCHES
    topics.batch()

    assert set(_raw_files(topics)) == files
    assert len(topics.raw_places()) == len(set(topics.raw_places())) == BATCHES * EVENTS


def test_a_landing_of_a_day_that_has_many_files_already_is_one_file_however_large_its_files_are(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "FULL_ROWS", 1)
    monkeypatch.setattr(rollup, "CROWDED_FILES", BATCHES)
    topics.batch()
    assert len(_in_force(topics)) == BATCHES
    _take_in(topics, monkeypatch, range(BATCHES, 2 * BATCHES))

    topics.batch()

    assert set(_in_force(topics)) == set(_raw_files(topics))
    assert len(_in_force(topics)) == BATCHES + 1
    assert len(topics.raw_places()) == len(set(topics.raw_places())) == 2 * BATCHES * EVENTS
    assert len(topics.rows()) == 2 * BATCHES * EVENTS
    assert all(result.passed for result in topics.reconcile())


@pytest.mark.full
def test_a_topics_raw_files_of_a_day_become_few_and_a_replay_finds_every_record_in_them(
    house: House, tmp_path: Path
) -> None:
    topics = Topics.build(house, tmp_path)
    for number in range(LANDINGS):
        topics.send(topics.event(EVENTS * number + i) for i in range(EVENTS))
        topics.stream()
    assert _join(topics, at_most=3) == 0  # no model has read them
    topics.batch()
    before, places = topics.rows(), topics.raw_places()

    files = _in_force(topics)
    assert len(files) == LANDINGS
    assert _join(topics, at_most=3) > 0

    (joined,) = _in_force(topics)
    assert (topics.rows(), topics.raw_places()) == (before, places)
    topics.rows("update ops.ledger set committed_at = committed_at - interval '1 day' returning true")
    assert topics.left_over() == []  # an hour later a sweep takes those that were replaced
    assert not all(path.is_file() for path in files)
    topics.rows(
        "update ops.partition_state set fingerprint = 'older' "
        "where starts_with(table_name, 'stg_events__') returning true"
    )
    topics.batch()
    assert (topics.rows(), topics.raw_places()) == (before, places)
    assert sum(one.rows for built in topics.batch().values() for one in built) == 0
    topics.delete_before(LANDINGS * EVENTS)
    assert sum(topics.ask("30", "35", dry_run=True).windows.values()) == 5
    content = bytearray(joined.read_bytes())
    content[len(content) // 2] ^= 1
    joined.write_bytes(bytes(content))
    with pytest.raises(Missing):
        topics.ask("30", "35")


def _join(topics: Topics, at_most: int) -> int:
    services, table = topics.world.services(), registry.table(topics.entity().table)
    with services.lake, services.ledger() as ledger, ledger.locked("land", table.name):
        return join_landed(services, ledger, table, "maintain", at_most)


def _in_force(topics: Topics) -> list[Path]:
    with topics.world.services().ledger() as ledger:
        return [Path(topics.world.lake, file.path) for file in ledger.files(topics.entity().table)]


@pytest.mark.full
@pytest.mark.parametrize("name", ["rollup.written", "rollup.journaled"])
def test_a_kill_while_files_become_one_loses_nothing(topics: Topics, name: str) -> None:
    before = topics.rows()

    assert topics.dies("roll_up", name)
    topics.roll_up()
    topics.batch()

    assert topics.rows() == before
    assert len(topics.raw_places()) == len(set(topics.raw_places())) == BATCHES * EVENTS
    assert topics.left_over() == []

"""The way back, gone with the generated company: from a backup, from the lake alone, from both."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flows import failpoints
from tests.flows.company import ROOT, Company, Place
from tests.house import House


def _empty(place: Place, house: House) -> Place:
    """The same lake with a warehouse that is empty."""
    dsn = house.server().empty()
    return replace(
        place, warehouse_dsn=dsn, environment={**place.environment, "ANALYTICS_WAREHOUSE_DSN": dsn}
    )


def _content(place: Place) -> dict[str, str]:
    """What people read; how often the stream has told a count (its revision) is not the lake's."""
    counts = place.value(
        "select md5(string_agg(concat_ws(' ', user_id, window_start, event_count), '|' "
        "order by user_id, window_start)) from analytics.user_event_counts"
    )
    return {**place.content(), "user_event_counts": str(counts)}


def _backed_up(place: Place) -> Place:
    place.environment["ANALYTICS_BACKUPS"] = str(place.lake.parent / "backups")
    done = place.run("backup")
    assert done.code == 0, done.said
    return place


@pytest.mark.full
def test_a_lost_warehouse_comes_back_from_the_lake_alone(copy: Place, house: House) -> None:
    lost = _empty(copy, house)

    refused = lost.run("run")
    done = lost.run("rebuild", "--from-lake")

    assert refused.code == 2
    assert "The lake is ahead of the warehouse" in refused.err
    assert done.code == 0, done.said
    assert _content(lost) == _content(copy)
    states = "select table_name, partition, token, fingerprint from ops.partition_state order by 1, 2"
    assert lost.rows(states) == copy.rows(states)
    # A look that found nothing new moves a position and is no landing: the next look is taken again.
    landed = "select entity, token from ops.position order by 1"
    assert lost.rows(landed) == copy.rows(landed)
    assert "a run would rebuild nothing" in lost.run("plan").out


@pytest.mark.full
def test_the_way_back_is_rehearsed_and_a_cent_that_is_other_in_the_end_is_named(company: Company) -> None:
    place = _backed_up(company.copy())
    company.advance(days=1)
    done = place.run()
    assert done.code == 0, done.said

    equal = place.run("restore", "--verify")

    assert equal.code == 0, equal.said
    assert "Equal: backup" in equal.out
    place.rows(
        "update analytics.fct_orders set revenue = revenue + 0.01 "
        "where order_id = (select order_id from analytics.fct_orders order by 1 limit 1)"
    )
    other = place.run("restore", "--verify")
    assert other.code == 1
    assert "analytics.fct_orders: live there is the sum of revenue is" in other.err
    drills = place.rows("select is_equal, rto_seconds > 0, replayed > 0 from ops.drill order by started_at")
    assert drills[-2:] == [(True, True, True), (False, True, True)]


@pytest.mark.full
def test_a_backup_older_than_the_lake_is_noticed_and_made_equal(company: Company, house: House) -> None:
    place = _backed_up(company.copy())
    company.advance(days=1)
    assert place.run().code == 0
    restored = _empty(place, house)

    done = place.run("restore", "--into", restored.warehouse_dsn, "--no-replay")
    assert done.code == 0, done.said
    assert _content(restored) != _content(place)
    again = place.run("restore", "--into", restored.warehouse_dsn)
    assert again.code == 2
    assert "The target is not empty" in again.err
    refused = restored.run()
    assert refused.code == 2
    assert "The lake is ahead of the warehouse" in refused.err

    done = restored.run("rebuild", "--from-lake")

    assert done.code == 0, done.said
    assert _content(restored) == _content(place)
    company.advance(days=1)
    done = restored.run()
    assert done.code == 0, done.said
    assert restored.differences() == []


@pytest.mark.full
def test_a_lake_older_than_the_warehouse_is_noticed_and_what_came_since_is_read_again(
    company: Company, tmp_path: Path
) -> None:
    place = company.copy()
    shutil.copytree(place.lake, tmp_path / "lake")
    company.advance(days=1)
    assert place.run().code == 0
    now = _content(place)
    shutil.rmtree(place.lake)
    shutil.move(tmp_path / "lake", place.lake)

    refused = place.run()
    assert refused.code == 2
    assert "The lake is behind the warehouse" in refused.err
    done = place.run("rebuild", "--from-lake")
    assert done.code == 0, done.said
    done = place.run()

    assert done.code == 0, done.said
    assert {table for table, rows in _content(place).items() if rows != now[table]} == set()
    assert place.differences() == []


@pytest.mark.full
def test_a_lost_lake_comes_back_from_the_backups_raw_files(company: Company) -> None:
    place = _backed_up(company.copy())
    before = _content(place)
    shutil.rmtree(place.lake)

    done = place.run("restore", "--lake", str(place.lake))
    assert done.code == 0, done.said
    done = place.run("rebuild", "--from-lake")
    assert done.code == 0, done.said
    assert _content(place) == before, "readers lose nothing meanwhile"
    done = place.run()

    assert done.code == 0, done.said
    assert _content(place) == before
    assert place.differences() == []


@pytest.mark.full
@pytest.mark.parametrize(
    "failpoint",
    [name for name in failpoints.names(ROOT / "flows" / "recovery") if name.startswith("recovery.")],
)
def test_a_warehouse_that_was_half_made_from_the_lake_when_it_was_killed_is_made_by_a_second_try(
    copy: Place, house: House, failpoint: str
) -> None:
    lost = _empty(copy, house)

    killed = lost.command("rebuild", "--from-lake", ANALYTICS_FAILPOINT=failpoint)
    done = lost.run("rebuild", "--from-lake")

    assert killed.code == -9
    assert done.code == 0, done.said
    assert _content(lost) == _content(copy)

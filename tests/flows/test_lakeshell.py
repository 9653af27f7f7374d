"""Wherever the lake is, `lake.sql` opens it, or its place is refused before anything is written there."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from flows.lakeshell import lake_sql
from flows.settings import Settings, SettingsError
from flows.stores.lake import Lake
from tests.flows.company import run_here
from tests.flows.stores.world import DAY, EVENTS, built, visits


@pytest.mark.parametrize(
    "name",
    ["plain", "a,b", "{a,b}", "back\\slash", 'o\'dd "place"', "100% #1", "[a] *?", "Ölsee 木", "x" * 200],
)
def test_the_views_of_a_lake_are_there_whatever_its_folder_is_called(tmp_path: Path, name: str) -> None:
    with Lake(tmp_path / name) as lake:
        files = built(lake, EVENTS, DAY, visits(DAY, 3), batch="b1").files
        text = lake_sql(lake.root, [EVENTS], {EVENTS.name: files})
    with duckdb.connect() as connection:
        connection.execute(text)
        answer = connection.execute(f"select count(*), min(visited_at_day)::varchar from {EVENTS.name}")
        assert answer.fetchone() == (3, DAY)


def test_a_folder_that_readers_would_take_for_a_column_s_value_is_no_place_for_a_lake(tmp_path: Path) -> None:
    """A lake below `status=new` had that as the status of every order, in whatever read it by lake.sql."""
    settings = Settings(_env_file=None, lake=tmp_path / "status=new" / "lake")
    with pytest.raises(SettingsError, match=r"take status=new for a column .* Set ANALYTICS_LAKE"):
        _ = settings.lake_root


def test_a_lake_that_is_there_and_can_not_be_read_is_told_in_one_sentence(tmp_path: Path) -> None:
    """As where it belongs to another user: it was a traceback."""
    for place in (tmp_path / "file" / "lake", tmp_path / "lake"):
        (tmp_path / "file").touch()
        (tmp_path / "lake" / "lake.sql").mkdir(parents=True, exist_ok=True)
        given = {"ANALYTICS_LAKE": str(place), "ANALYTICS_SANDBOX": str(tmp_path / "none")}
        done = run_here(["lake", "select 1"], tmp_path, given)
        assert done.code == 2
        assert done.err.startswith(f"The lake can't be read at {place / 'lake.sql'}: "), done.err
        assert len(done.err.splitlines()) == 1

"""A column that the application gets one day, from its table to the lake's staging: no line of code."""

from __future__ import annotations

import duckdb
import pytest

from tests.flows.company import Company, Place


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_new_column_of_the_application_is_in_staging_after_the_next_run(company: Company) -> None:
    place = company.copy(own_application=True)
    # Read by its rows from here on, and nothing else is due.
    assert place.run().code == 0
    place.application(
        "alter table users add column nickname text; update users set nickname = 'Bo', "
        "updated_at = (select max(updated_at) + interval '1 second' from users) where id = 7"
    )

    done = place.run()
    assert done.code == 0, done.said
    assert "nickname" in done.said, "a warning tells of it"
    assert place.value("select count(*) from ops.schema_change where column_name = 'nickname'") == 1
    assert asked(place, "select user_id, nickname from stg_app__users where nickname is not null") == [
        (7, "Bo")
    ]
    assert asked(place, "select count(*) > 200, count(nickname) from stg_app__users") == [(True, 1)]
    assert asked(place, "select distinct nickname from raw_app__users where nickname <> ''") == [("Bo",)]
    # Who reads the warehouse reads what was declared.
    shown = (
        "select count(*) from pg_attribute where attname = 'nickname' and attrelid::regclass::text ~ 'users'"
    )
    assert place.value(shown) == 0

    again = place.run()
    assert again.code == 0, again.said
    assert place.summary()["landed"] == {}
    assert place.changed() == {}
    assert "nickname" not in again.said

    place.application(
        "alter table users drop column nickname; update users set "
        "updated_at = (select max(updated_at) + interval '1 second' from users) where id = 8"
    )
    done = place.run()
    assert done.code == 0, done.said
    assert asked(place, "select count(*) > 200 from stg_app__users") == [(True,)]
    columns = [name for name, *_ in asked(place, "describe stg_app__users")]
    assert "nickname" not in columns


def asked(place: Place, query: str) -> list[tuple[object, ...]]:
    """What lake.sql's views answer."""
    with duckdb.connect() as lake:
        lake.execute((place.lake / "lake.sql").read_text(encoding="utf-8"))
        return lake.sql(query).fetchall()

"""The names by which commands take tables of the application."""

from __future__ import annotations

import pytest

from flows.check_source import chosen
from flows.extract import debezium
from flows.source_names import by_name
from transforms import registry


@pytest.mark.parametrize("name", ["orders", "app.orders", "raw_app__orders", "public.orders"])
def test_a_table_of_the_application_answers_to_each_of_its_names(name: str) -> None:
    (found,) = chosen([name])
    assert found.place == "app.orders"
    assert by_name(debezium.entities())[name].place == "app.orders"


def test_what_is_no_table_of_a_database_has_no_name_here() -> None:
    assert not {"clicks", "events.clicks", "charges"} & by_name(registry.entities()).keys()

"""An order of a day that dim_date has not: which rule refuses it, and the way on."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import psycopg
import pytest

from flows.build.guard import CheckFailed
from tests.flows import kill_child
from tests.flows.extract.change_events import created, updated
from tests.flows.kill_child import Place
from tests.flows.test_by_key import FACTS, MODELS, Shop, Step
from tests.flows.warehouses import Warehouses

ORDER = "00000000-0000-4000-8000-000000000009"


@pytest.fixture
def place(warehouses: Warehouses) -> Iterator[Place]:
    with warehouses.lent(*MODELS) as place:
        yield place


def _days(place: Place) -> list[str]:
    with psycopg.connect(place.warehouse_dsn) as connection:
        found = connection.execute("select order_date::text from analytics.fct_orders order by 1").fetchall()
    return [day for (day,) in found]


@pytest.mark.parametrize("day", ["2014-12-31", "2036-01-01"])
def test_an_order_of_a_day_that_dim_date_has_not_is_refused_by_name_until_it_is_corrected(
    place: Place, day: str
) -> None:
    services, shop = kill_child.services(place), Shop(is_captured=True)
    with services.lake:
        shop.do(Step(0, "put", 9, 1, is_cut=False))
        landed = shop.land(services, 0)
        kill_child.build_all(services, place, "run-1")
        (row,) = shop.rows.values()
        late = {**row, "id": ORDER, "created_at": f"{day}T00:00:00Z"}
        shop._tell(created(late), late, "r")
        landed = shop.land(services, landed)

        with pytest.raises(CheckFailed) as refused:
            kill_child.build_all(services, place, "run-2")
        (file,) = (services.lake.root / "quarantine" / FACTS).glob("*.parquet")
        said = str(refused.value)
        assert said.startswith("fct_orders: rule references_order_date failed for 1 rows; what is published ")
        assert f"The failing rows are in {file}." in said
        assert "order_date exists in dim_date.date" in said
        assert "Where such a value is right, let dim_date have it; else correct it at its source." in said
        with duckdb.connect() as own:
            own.execute(f"select order_id::varchar, order_date::varchar from read_parquet('{file}')")
            assert own.fetchall() == [(ORDER, day)]
        assert _days(place) == ["2025-09-15"]

        right = {**late, "created_at": "2025-10-16T00:00:00Z", "updated_at": "2025-10-21T00:00:00Z"}
        shop._tell(updated(right), right, "r")
        shop.land(services, landed)
        kill_child.build_all(services, place, "run-3")
        assert _days(place) == ["2025-09-15", "2025-10-16"]

"""`python -m flows run --select NAME`: only that, and whole."""

from __future__ import annotations

import pytest

from tests.flows.company import Company

SELECTED = "mart_daily_revenue"


@pytest.mark.full
def test_what_a_selected_table_needs_and_nobody_ever_built_is_built_with_it(company: Company) -> None:
    whole = company.built().content(SELECTED)
    place = company.empty()

    done = place.run("run", "--select", SELECTED)

    assert done.code == 0, done.said
    assert place.content(SELECTED) == whole
    built = {name for (name,) in place.rows("select distinct table_name from ops.partition_state")}
    assert "fct_orders" in built
    assert "fct_events" not in built
    assert f"is built too: {SELECTED} needs it, and it never was" in done.said
    selected = place.summary()["selected"]
    assert {SELECTED, "fct_orders", "dim_users"} <= {*selected}
    assert built <= {*selected}

    again = place.run("run", "--select", SELECTED)
    assert again.code == 0, again.said
    assert "is built too" not in again.said
    assert place.summary()["selected"] == [SELECTED]

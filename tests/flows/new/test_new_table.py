"""A table that is made of others begins as a file that works, and nothing is written that does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flows.errors import FlowsError
from tests.flows.new.begun import Begun
from transforms.contract import ContractError, Layer


def test_a_mart_of_a_fact_and_a_dimension_has_their_columns_and_windows(begun: Begun) -> None:
    known = begun.new("mart_order_countries", "--from", "fct_orders", "--from", "dim_users")
    made, orders = known.table("mart_order_countries"), known.table("fct_orders")
    assert (made.layer, made.key, made.partition) == (Layer.MARTS, orders.key, orders.partition)
    assert {*made.upstreams} == {"fct_orders", "dim_users"}
    names = {column.name for column in made.columns}
    assert {"order_id", "country"} <= names
    assert not names & {"email", "name", "last_ip"}
    assert all(column.description for column in made.columns)
    assert begun.differences(known) == []


@pytest.mark.parametrize(
    ("name", "upstream", "layer"),
    [
        ("dim_currencies_shown", "dim_currencies", Layer.DIMENSIONS),
        ("fct_late_events", "fct_events", Layer.FACTS),
        ("stg_orders_twice", "stg_app__orders", Layer.STAGING),
        ("mart_days", "mart_daily_metrics", Layer.MARTS),
    ],
)
def test_a_table_of_any_layer_can_be_begun(begun: Begun, name: str, upstream: str, layer: Layer) -> None:
    known = begun.new(name, "--from", upstream)
    assert known.table(name).layer is layer
    assert begun.differences(known) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mart_x"], "--from TABLE"),
        (["revenue", "--from", "fct_orders"], "stg_…, dim_…, fct_… or mart_…"),
        (["martx", "--from", "fct_orders"], "stg_…, dim_…, fct_… or mart_…"),
        (["mart_X", "--from", "fct_orders"], "lower-case letters"),
        (["mart_x", "--from", "fct_ordres"], "Did you mean fct_orders"),
        (["mart_x", "--from", "dim_users", "--from", "fct_orders"], "has no column order_id"),
        (["crm.invoices"], "docs/connect.md"),
        (["stripe.charges"], "declared already"),
        (["stripe.invoices", "--mode", "cdc"], "--mode says nothing of a list of an API"),
        (["app.orders"], "declared already"),
        (["events.clicks"], "declared already"),
        (["app.Invoices"], "lower-case letters"),
        (["app.invoices", "--from", "fct_orders"], "--from says nothing of a table of the application"),
        (["app.invoices", "--time", "at"], "--time says nothing of a table of the application"),
        (["events.searches", "--mode", "cdc"], "--mode says nothing of a topic"),
        (["mart_x", "--from", "fct_orders", "--key", "id"], "--key says nothing of a table that is made"),
        (["dim_users", "--from", "stg_app__users"], "dim_users.sql is there already"),
    ],
)
def test_what_can_not_be_begun_is_refused_and_nothing_is_written(
    begun: Begun, words: list[str], said: str
) -> None:
    before = begun.files()
    with pytest.raises((FlowsError, ContractError), match=said):
        begun.new(*words)
    assert begun.files() == before


def test_what_the_project_could_not_be_read_with_is_taken_away_again(begun: Begun) -> None:
    (begun.project.models / "marts" / "mart_x.py").write_text("TABLE = None\n", encoding="utf-8")
    before = begun.files()
    with pytest.raises(ContractError):
        begun.new("mart_x", "--from", "fct_orders")
    assert begun.files() == before


def test_the_command_is_refused_in_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows", "new", "mart_x"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1

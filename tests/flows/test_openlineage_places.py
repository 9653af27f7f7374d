"""A data set has one name, however its address is written: https://openlineage.io/docs/spec/naming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.openlineage.places import Place, of_published, of_source, of_table
from flows.settings import Settings
from transforms import registry

ORDERS = registry.entity("raw_app__orders")
CLICKS = registry.entity("raw_events__clicks")
CHARGES = registry.entity("raw_stripe__charges")


@pytest.mark.parametrize(
    ("dsn", "namespace", "database"),
    [
        ("postgresql://eve:hunter2@db.example:6432/shop", "postgres://db.example:6432", "shop"),
        ("host=db.example dbname=shop user=eve password=hunter2", "postgres://db.example:5432", "shop"),
        ("postgresql://eve:hunter2@a.example:1,b.example:2/shop", "postgres://a.example:1", "shop"),
        ("host=/var/run/postgresql port=5433 dbname=shop", "postgres://localhost:5433", "shop"),
        ("postgresql://eve:hunter2@[::1]:6432/shop", "postgres://[::1]:6432", "shop"),
        ("postgresql://eve@db.example", "postgres://db.example:5432", "eve"),
    ],
)
def test_a_table_of_postgresql_is_named_by_server_database_and_schema(
    dsn: str, namespace: str, database: str
) -> None:
    settings = Settings(warehouse_dsn=dsn, app_dsn=dsn)
    assert of_source(ORDERS, settings) == Place(namespace, f"{database}.public.orders")
    served = Place(namespace, f"{database}.analytics.fct_orders")
    assert of_table(registry.table("fct_orders"), settings) == served
    assert of_published("fct_orders", settings) == served


@pytest.mark.parametrize(
    ("bootstrap", "namespace"),
    [
        ("broker:9092", "kafka://broker:9092"),
        ("a:9093, b:9094", "kafka://a:9093"),
        ("SASL_SSL://a:9093,SASL_SSL://b:9093", "kafka://a:9093"),
        ("broker", "kafka://broker:9092"),
        (" broker:9092 ", "kafka://broker:9092"),
    ],
)
def test_a_topic_is_named_by_the_first_broker(bootstrap: str, namespace: str) -> None:
    assert of_source(CLICKS, Settings(kafka_bootstrap=bootstrap)) == Place(namespace, "clicks")


@pytest.mark.parametrize(
    ("url", "namespace", "below"),
    [
        ("https://api.stripe.com", "https://api.stripe.com", ""),
        ("https://example.com/stripe/", "https://example.com", "/stripe"),
        ("http://eve:hunter2@127.0.0.1:8080/", "http://127.0.0.1:8080", ""),
        ("http://[::1]:8080", "http://[::1]:8080", ""),
    ],
)
def test_a_list_of_an_api_is_named_by_its_server_and_path(url: str, namespace: str, below: str) -> None:
    given: dict[str, Any] = {"stripe_url": url}
    assert of_source(CHARGES, Settings(**given)) == Place(namespace, f"{below}/v1/charges")


def test_what_only_the_lake_has_is_named_by_its_folder(tmp_path: Path) -> None:
    place = of_table(registry.table("stg_app__orders"), Settings(lake=tmp_path))
    assert place == Place("file", str(tmp_path / "staging" / "stg_app__orders"))

"""The application's database: 15 tables and how each is read.

What orders and members hang on is captured: Debezium tells every change of these tables, deletes included,
from what was there when it began. Of the others those that carry `updated_at` are read incrementally; their
deletes leave no trace, so their keys are compared with every read. Small reference tables are read whole.
A table's mode is one word here and can be changed there and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Literal

from transforms.contract import Column, Partition
from transforms.entities import Control, Postgres, SourceEntity

_PERSONAL = frozenset(
    {
        "email",
        "last_ip",
        "line1",
        "city",
        "postal_code",
        "contact_email",
        "subject",
        "messages",
        "title",
        "body",
    }
)


def _entity(
    name: str,
    grain: str,
    columns: dict[str, str],
    *,
    key: tuple[str, ...] = ("id",),
    mode: Literal["incremental", "snapshot", "cdc"] = "incremental",
    cursor: str = "updated_at",
    deletes_every: timedelta | None = timedelta(0),
    month_of: str | None = None,
    control: Control | None = None,
    on_change: Literal["evolve", "freeze", "quarantine"] = "evolve",
    deletes: Literal["remove", "mark"] = "remove",
    formerly: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    schema: str = "public",
    table: str | None = None,
) -> SourceEntity:
    incremental = mode == "incremental"
    personal = _PERSONAL | ({"name"} if name == "users" else set())
    return SourceEntity(
        source="app",
        name=name,
        read=Postgres(
            table=table or name,
            schema=schema,
            mode=mode,
            cursor=cursor if incremental else None,
            deletes_every=deletes_every if incremental else timedelta(0),
            on_change=on_change,
            deletes=deletes,
        ),
        key=key,
        grain=grain,
        columns=tuple(
            Column(
                column,
                kind,
                nullable=column not in key,
                pii=not personal.isdisjoint({column, *formerly.get(column, ())}),
                formerly=formerly.get(column, ()),
            )
            for column, kind in columns.items()
        ),
        partition=Partition(month_of, "month") if month_of else None,
        control=control,
        person="id" if name == "users" else "user_id" if "user_id" in columns else None,
    )


ENTITIES: tuple[SourceEntity, ...] = (
    _entity(
        "users",
        "one row per change of a user account, what was there at first included",
        {
            "id": "bigint",
            "email": "varchar",
            "name": "varchar",
            "country": "varchar",
            "locale": "varchar",
            "plan": "varchar",
            "marketing_opt_in": "boolean",
            "last_ip": "varchar",
            "created_at": "timestamptz",
            "updated_at": "timestamptz",
            "deleted_at": "timestamptz",
        },
        mode="cdc",
    ),
    _entity(
        "addresses",
        "one row per change of a user's address, what was there at first included",
        {
            "id": "bigint",
            "user_id": "bigint",
            "kind": "varchar",
            "line1": "varchar",
            "city": "varchar",
            "postal_code": "varchar",
            "country": "varchar",
            "is_default": "boolean",
            "created_at": "timestamptz",
            "updated_at": "timestamptz",
        },
        mode="cdc",
    ),
    _entity(
        "categories",
        "one row per category in each landed snapshot",
        {"id": "integer", "parent_id": "integer", "name": "varchar", "updated_at": "timestamptz"},
        mode="snapshot",
    ),
    _entity(
        "suppliers",
        "one row per supplier in each landed snapshot",
        {
            "id": "integer",
            "name": "varchar",
            "country": "varchar",
            "contact_email": "varchar",
            "updated_at": "timestamptz",
        },
        mode="snapshot",
    ),
    _entity(
        "products",
        "one row per change of a product, what was there at first included",
        {
            "id": "bigint",
            "sku": "varchar",
            "name": "varchar",
            "category_id": "integer",
            "supplier_id": "integer",
            "description": "varchar",
            "attributes": "json",
            "tags": "varchar[]",
            "image": "blob",
            "weight_kg": "decimal(38, 18)",
            "is_active": "boolean",
            "created_at": "timestamptz",
            "updated_at": "timestamptz",
        },
        mode="cdc",
    ),
    _entity(
        "product_prices",
        "one row per change of a product's price in a currency and period, what was there at first included",
        {
            "id": "bigint",
            "product_id": "bigint",
            "currency": "varchar",
            "amount": "decimal(12, 2)",
            "valid_from": "timestamptz",
            "valid_to": "timestamptz",
            "created_at": "timestamptz",
            "updated_at": "timestamptz",
        },
        mode="cdc",
    ),
    _entity(
        "inventory",
        "one row per change of a product's stock in a warehouse, what was there at first included",
        {
            "product_id": "bigint",
            "warehouse": "varchar",
            "quantity": "integer",
            "reserved": "integer",
            "updated_at": "timestamptz",
        },
        key=("product_id", "warehouse"),
        mode="cdc",
    ),
    _entity(
        "coupons",
        "one row per coupon in each landed snapshot",
        {
            "code": "varchar",
            "percent_off": "decimal(5, 2)",
            "valid_during": "varchar",
            "max_uses": "integer",
            "created_at": "timestamptz",
            "updated_at": "timestamptz",
        },
        key=("code",),
        mode="snapshot",
    ),
    _entity(
        "orders",
        "one row per change of an order (one product line), what was there at first included",
        {
            "id": "uuid",
            "user_id": "bigint",
            "product_id": "bigint",
            "quantity": "integer",
            "unit_price": "decimal(12, 2)",
            "discount_amount": "decimal(12, 2)",
            "total_amount": "decimal(10, 2)",
            "currency": "varchar",
            "coupon_code": "varchar",
            "status": "varchar",
            "created_at": "timestamptz",
            "updated_at": "timestamptz",
        },
        month_of="created_at",
        control=Control(by="created_at", amount="total_amount", group="currency"),
        mode="cdc",
    ),
    _entity(
        "order_events",
        "one row per change of an order event (an order event is a change of an order's status)",
        {
            "id": "bigint",
            "order_id": "uuid",
            "from_status": "varchar",
            "to_status": "varchar",
            "actor": "varchar",
            "payload": "json",
            "occurred_at": "timestamptz",
        },
        month_of="occurred_at",
        mode="cdc",
    ),
    _entity(
        "payments",
        "one row per change of a payment, what was there at first included",
        {
            "id": "bigint",
            "order_id": "uuid",
            "stripe_charge_id": "varchar",
            "amount": "decimal(10, 2)",
            "currency": "varchar",
            "method": "varchar",
            "status": "varchar",
            "created_at": "timestamptz",
            "updated_at": "timestamptz",
        },
        month_of="created_at",
        mode="cdc",
    ),
    _entity(
        "refunds",
        "one row per change of a refund, what was there at first included",
        {
            "id": "bigint",
            "payment_id": "bigint",
            "stripe_refund_id": "varchar",
            "amount": "decimal(10, 2)",
            "currency": "varchar",
            "reason": "varchar",
            "status": "varchar",
            "created_at": "timestamptz",
            "updated_at": "timestamptz",
        },
        month_of="created_at",
        mode="cdc",
    ),
    _entity(
        "shipments",
        "one row per change of a shipment, what was there at first included",
        {
            "id": "bigint",
            "order_id": "uuid",
            "carrier": "varchar",
            "tracking_number": "varchar",
            "status": "varchar",
            "shipped_at": "timestamptz",
            "delivered_at": "timestamptz",
            "created_at": "timestamptz",
            "updated_at": "timestamptz",
        },
        month_of="created_at",
        mode="cdc",
    ),
    _entity(
        "reviews",
        "one row per read version of a product review",
        {
            "id": "bigint",
            "order_id": "uuid",
            "user_id": "bigint",
            "product_id": "bigint",
            "rating": "smallint",
            "title": "varchar",
            "body": "varchar",
            "created_at": "timestamptz",
            "updated_at": "timestamptz",
        },
        month_of="created_at",
    ),
    _entity(
        "support_tickets",
        "one row per read version of a support ticket",
        {
            "id": "bigint",
            "user_id": "bigint",
            "order_id": "uuid",
            "subject": "varchar",
            "status": "varchar",
            "priority": "varchar",
            "messages": "json",
            "opened_at": "timestamptz",
            "closed_at": "timestamptz",
            "updated_at": "timestamptz",
        },
        month_of="opened_at",
    ),
)

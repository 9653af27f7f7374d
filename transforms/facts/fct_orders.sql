/* ---
grain:     one row per order of the application, whatever its status; an order is one product line
key:       [order_id]
partition: {by: created_at, every: month}
write:     merge
changed:   [stg_app__orders]
by_key:    {stg_app__orders: [order_id]}
owner:     data-team
freshness: 1 hour
foreign_keys: {user_id: dim_users, product_id: dim_products, order_date: dim_date.date}
indexes:
  idx_orders_user: [user_id]
  idx_orders_date: [order_date]
expect:
  - not_null: [user_id, product_id, order_date, quantity, revenue, currency, status, created_at]
  - between: {column: revenue, min: 0}
  - between: {column: quantity, min: 1}
  - matches: {column: currency, pattern: '^[A-Z]{3}$'}
  - accepted_values: {column: status, values: [pending, paid, shipped, delivered, cancelled, refunded]}
    severity: warning
  - references: {column: user_id, table: dim_users}
  - references: {column: product_id, table: dim_products}
  - references: {column: order_date, table: dim_date, to: date}
--- */
select
    order_id::uuid as order_id,
    user_id::bigint as user_id, -- User who ordered; an inferred member of dim_users until the user arrives
    product_id::bigint as product_id, -- Product that was ordered; an inferred member of dim_products until it arrives
    created_at::date as order_date, -- Day the order was placed (UTC)
    quantity::integer as quantity,
    total_amount::decimal(10,2) as revenue, -- What the customer pays after the discount, in major units of the currency; refunds are not taken off
    discount_amount::decimal(12,2) as discount_amount,
    currency::varchar as currency, -- ISO 4217 code of revenue; amounts of different currencies are never added
    coupon_code::varchar as coupon_code,
    status::varchar as status,
    created_at::timestamptz as created_at,
    updated_at::timestamptz as updated_at
from stg_app__orders

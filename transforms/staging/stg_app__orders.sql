/* ---
grain:     one row per order of the application; an order is one product line
key:       [order_id]
partition: {by: created_at, every: month}
write:     merge
changed:   [raw_app__orders]
by_key:    {raw_app__orders: [id]}
passes:    [raw_app__orders]
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [user_id, product_id, total_amount, currency, status, created_at]
  - between: {column: total_amount, min: 0}
--- */
with latest as (
    select *
    from raw_app__orders
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::uuid as order_id, -- Identifies the order everywhere
    user_id::bigint as user_id, -- User who ordered; may arrive later than the order
    product_id::bigint as product_id, -- Product that was ordered
    quantity::integer as quantity, -- Pieces ordered
    unit_price::decimal(12,2) as unit_price, -- Price of a piece when it was ordered, in major units of the currency
    discount_amount::decimal(12,2) as discount_amount, -- What the coupon took off the whole order, in major units
    total_amount::decimal(10,2) as total_amount, -- What the customer pays: quantity * unit_price - discount_amount, in major units
    upper(trim(currency))::varchar as currency, -- ISO 4217 code of the amounts
    nullif(trim(coupon_code), '')::varchar as coupon_code, -- Coupon that was used; null for none
    status::varchar as status, -- Where the order stands: pending, paid, shipped, delivered, cancelled or refunded
    created_at::timestamptz as created_at, -- When the row was made in the application (UTC)
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd'

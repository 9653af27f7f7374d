/* ---
grain:     one row per day and currency with an order or a refund
description: Revenue as the application books it. A day's revenue is that of the orders placed on it; refunds count on their own day.
key:       [date, currency]
partition: {by: date, every: month}
write:     merge
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [orders, revenue, refunded_amount, net_revenue]
  - between: {column: revenue, min: 0}
  - between: {column: refunded_amount, min: 0}
--- */
with movements as (
    select
        order_date as date,
        currency,
        count(*) filter (where status <> 'cancelled') as orders,
        sum(revenue) filter (where status <> 'cancelled') as revenue,
        count(*) filter (where status = 'cancelled') as cancelled_orders,
        sum(revenue) filter (where status = 'cancelled') as cancelled_revenue,
        0 as refunds,
        0 as refunded_amount
    from fct_orders
    group by order_date, currency
    union all
    select created_at::date, currency, 0, 0, 0, 0, count(*), sum(amount)
    from stg_app__refunds
    where status = 'succeeded'
    group by created_at::date, currency
)

select
    date::date as date, -- Day orders were placed or refunds made (UTC)
    currency::varchar as currency, -- ISO 4217 code of the amounts; they are in major units and never added across currencies
    sum(orders)::bigint as orders, -- Orders placed, cancelled ones left out
    coalesce(sum(revenue), 0)::decimal(18,2) as revenue, -- What the customers of these orders pay; refunds are not taken off
    sum(cancelled_orders)::bigint as cancelled_orders, -- Orders placed that day which were cancelled, whenever that was
    coalesce(sum(cancelled_revenue), 0)::decimal(18,2) as cancelled_revenue, -- What the customers of the cancelled orders would have paid
    sum(refunds)::bigint as refunds, -- Refunds made that day that succeeded, whenever the order was placed
    coalesce(sum(refunded_amount), 0)::decimal(18,2) as refunded_amount, -- Amount of these refunds
    (coalesce(sum(revenue), 0) - coalesce(sum(refunded_amount), 0))::decimal(18,2) as net_revenue -- revenue - refunded_amount; below 0 when more was given back than sold
from movements
group by date, currency

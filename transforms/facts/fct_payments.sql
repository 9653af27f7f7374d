/* ---
grain:     one row per Stripe charge, as it last was
key:       [payment_id]
partition: {by: occurred_at, every: month}
write:     replace_partition
# An order is paid within a month; its fee is booked with the charge. What is further away is not joined: it is read or not, as other months are due.
lookback:  31 days
owner:     data-team
freshness: 1 hour
indexes:
  idx_payments_order: [order_id]
  idx_payments_user: [user_id]
expect:
  - not_null: [amount_minor, amount_captured_minor, amount_refunded_minor, currency, status, is_disputed, occurred_at]
  - between: {column: amount_minor, min: 0}
  - between: {column: amount_captured_minor, min: 0}
  - between: {column: amount_refunded_minor, min: 0}
  - matches: {column: currency, pattern: '^[A-Z]{3}$'}
  - accepted_values: {column: status, values: [succeeded, pending, failed]}
  - references: {column: user_id, table: dim_users}
--- */
-- A dispute does not change the charge in Stripe's events, so the disputes are asked as well.
with fees as (
    select movements.source_id as payment_id, sum(movements.fee_minor) as fee_minor, any_value(movements.currency) as currency
    from stg_stripe__balance_transactions as movements
    inner join stg_stripe__charges as charges
        on movements.source_id = charges.payment_id
        and movements.created_at between charges.created_at - interval 31 days and charges.created_at + interval 31 days
    where movements.type in ('charge', 'payment')
    group by movements.source_id
)

select
    charges.payment_id::varchar as payment_id,
    charges.order_id::uuid as order_id,
    orders.user_id::bigint as user_id, -- User who placed the order; null when the charge belongs to no order we know of the 31 days around it
    charges.customer_id::varchar as customer_id,
    charges.amount_minor::bigint as amount_minor,
    charges.amount_captured_minor::bigint as amount_captured_minor,
    charges.currency::varchar as currency,
    charges.status::varchar as status,
    charges.payment_method::varchar as payment_method,
    (charges.is_disputed or charges.payment_id in (select payment_id from stg_stripe__disputes))::boolean as is_disputed, -- Whether the customer's bank ever objected
    charges.amount_refunded_minor::bigint as amount_refunded_minor, -- Amount given back so far, in minor units
    fees.fee_minor::bigint as fee_minor, -- What Stripe kept, in minor units of fee_currency; null while it is not booked
    fees.currency::varchar as fee_currency, -- ISO 4217 code of the fee: the currency of the balance
    charges.created_at::timestamptz as occurred_at -- When the customer was charged (UTC)
from stg_stripe__charges as charges
left join stg_app__orders as orders
    on charges.order_id = orders.order_id
    and orders.created_at between charges.created_at - interval 31 days and charges.created_at + interval 31 days
left join fees on charges.payment_id = fees.payment_id

/* ---
grain:     one row per Stripe refund, as it last was
key:       [refund_id]
partition: {by: occurred_at, every: month}
write:     replace_partition
# Stripe gives money back up to 180 days after the charge. What is further away is not joined: it is read or not, as other months are due.
lookback:  186 days
owner:     data-team
freshness: 1 hour
indexes:
  idx_refunds_payment: [payment_id]
expect:
  - not_null: [payment_id, amount_minor, currency, status, occurred_at]
  - between: {column: amount_minor, min: 0}
  - matches: {column: currency, pattern: '^[A-Z]{3}$'}
  - references: {column: user_id, table: dim_users}
--- */
select
    refunds.refund_id::varchar as refund_id,
    refunds.payment_id::varchar as payment_id,
    payments.order_id::uuid as order_id, -- Order that was paid; null when the charge is unknown, or more than 186 days older
    payments.user_id::bigint as user_id, -- User who placed the order; null when the charge belongs to no order we know, or is more than 186 days older
    refunds.amount_minor::bigint as amount_minor,
    refunds.currency::varchar as currency,
    refunds.reason::varchar as reason,
    refunds.status::varchar as status,
    refunds.created_at::timestamptz as occurred_at -- When the refund was made (UTC)
from stg_stripe__refunds as refunds
left join fct_payments as payments
    on refunds.payment_id = payments.payment_id
    and payments.occurred_at between refunds.created_at - interval 186 days and refunds.created_at + interval 186 days

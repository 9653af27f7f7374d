/* ---
grain:     one row per Stripe charge, as it last was
key:       [payment_id]
partition: {by: created_at, every: month}
write:     merge
by_key:    {raw_stripe__charges: [id], stg_stripe__events: [object_id]}
owner:     data-team
freshness: 1 hour
expect:
  # What Stripe always sends: without it nobody knows it, and it is not 0.
  - not_null: [amount_minor, amount_captured_minor, amount_refunded_minor, currency, status, is_disputed, is_refunded, created_at]
  - between: {column: amount_minor, min: 0}
  - accepted_values: {column: status, values: [succeeded, pending, failed]}
--- */
with versions as (
    select id, object, window_end - interval 1 hour as known_at, _landed_at as landed_at, _seq as landed_seq
    from raw_stripe__charges
    union all
    select object_id, object, occurred_at, landed_at, landed_seq
    from stg_stripe__events
    where object_type = 'charge'
),

-- What an event holds is as of the event, what a list showed as of an hour before its read began: Stripe's clock and ours are not one, and an event
-- that were taken for older than a list would be lost for ever, while a list that is taken for older than an event is made good by the next event.
-- When it landed says nothing: a dead letter of the list that is replayed shows what was so when it was read (window_end), however late it lands.
-- Stripe lists the newest first: of two in one second the one that came first is newer.
latest as (
    select
        id,
        from_json(object, '{
            "amount": "BIGINT", "amount_captured": "BIGINT", "amount_refunded": "BIGINT", "currency": "VARCHAR", "status": "VARCHAR",
            "disputed": "BOOLEAN", "refunded": "BOOLEAN", "created": "BIGINT", "customer": "VARCHAR", "balance_transaction": "VARCHAR",
            "failure_code": "VARCHAR", "metadata": {"order_id": "VARCHAR"}, "payment_method_details": {"type": "VARCHAR"}
        }') as charge
    from versions
    qualify row_number() over (partition by id order by known_at desc, landed_at desc, landed_seq) = 1
)

select
    id::varchar as payment_id, -- Stripe charge (ch_…)
    try_cast(charge.metadata.order_id as uuid)::uuid as order_id, -- Order that is paid, as the application told Stripe; null when it did not
    charge.customer::varchar as customer_id, -- Stripe customer (cus_…); null for a guest
    charge.balance_transaction::varchar as balance_transaction_id, -- Movement of the Stripe balance (txn_…); null while there is none
    charge.amount::bigint as amount_minor, -- Amount charged or only authorised so far, in minor units
    charge.amount_captured::bigint as amount_captured_minor, -- Amount that was collected, in minor units
    charge.amount_refunded::bigint as amount_refunded_minor, -- Amount given back so far, in minor units
    upper(charge.currency)::varchar as currency, -- ISO 4217 code of the amounts
    charge.status::varchar as status, -- succeeded, pending or failed
    charge.failure_code::varchar as failure_code, -- Why it failed, in Stripe's words; null when it did not
    charge.payment_method_details.type::varchar as payment_method, -- How it was paid: card, …
    charge.disputed::boolean as is_disputed, -- Whether the customer's bank objected
    charge.refunded::boolean as is_refunded, -- Whether all of it was given back
    to_timestamp(charge.created)::timestamptz as created_at -- When Stripe made it (UTC)
from latest

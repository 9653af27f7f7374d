/* ---
grain:     one row per Stripe refund, as it last was
key:       [refund_id]
partition: {by: created_at, every: month}
write:     merge
by_key:    {raw_stripe__refunds: [id], stg_stripe__events: [object_id]}
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [amount_minor, currency, status, created_at]
  - not_null: [payment_id]
  - between: {column: amount_minor, min: 0}
--- */
with versions as (
    select id, object, window_end - interval 1 hour as known_at, _landed_at as landed_at, _seq as landed_seq
    from raw_stripe__refunds
    union all
    select object_id, object, occurred_at, landed_at, landed_seq
    from stg_stripe__events
    where object_type = 'refund'
),

-- What an event holds is as of the event, what a list showed as of an hour before its read began: Stripe's clock and ours are not one, and an event
-- that were taken for older than a list would be lost for ever, while a list that is taken for older than an event is made good by the next event.
-- When it landed says nothing: a dead letter of the list that is replayed shows what was so when it was read (window_end), however late it lands.
-- Stripe lists the newest first: of two in one second the one that came first is newer.
latest as (
    select
        id,
        from_json(object, '{
            "amount": "BIGINT", "currency": "VARCHAR", "status": "VARCHAR", "charge": "VARCHAR", "reason": "VARCHAR",
            "balance_transaction": "VARCHAR", "created": "BIGINT"
        }') as refund
    from versions
    qualify row_number() over (partition by id order by known_at desc, landed_at desc, landed_seq) = 1
)

select
    id::varchar as refund_id, -- Stripe refund (re_…)
    refund.charge::varchar as payment_id, -- Stripe charge that is given back
    refund.balance_transaction::varchar as balance_transaction_id, -- Movement of the Stripe balance; null while there is none
    refund.amount::bigint as amount_minor, -- Amount given back, in minor units
    upper(refund.currency)::varchar as currency, -- ISO 4217 code of the amounts
    refund.reason::varchar as reason, -- duplicate, fraudulent or requested_by_customer; null when nobody said
    refund.status::varchar as status, -- pending, succeeded, failed, canceled or requires_action
    to_timestamp(refund.created)::timestamptz as created_at -- When Stripe made it (UTC)
from latest

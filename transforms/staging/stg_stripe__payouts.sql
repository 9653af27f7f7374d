/* ---
grain:     one row per payout of the Stripe balance to the bank, as it last was
key:       [payout_id]
partition: {by: created_at, every: month}
write:     merge
by_key:    {raw_stripe__payouts: [id], stg_stripe__events: [object_id]}
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [amount_minor, currency, status, created_at]
--- */
with versions as (
    select id, object, window_end - interval 1 hour as known_at, _landed_at as landed_at, _seq as landed_seq
    from raw_stripe__payouts
    union all
    select object_id, object, occurred_at, landed_at, landed_seq
    from stg_stripe__events
    where object_type = 'payout'
),

-- What an event holds is as of the event, what a list showed as of an hour before its read began: Stripe's clock and ours are not one, and an event
-- that were taken for older than a list would be lost for ever, while a list that is taken for older than an event is made good by the next event.
-- When it landed says nothing: a dead letter of the list that is replayed shows what was so when it was read (window_end), however late it lands.
-- Stripe lists the newest first: of two in one second the one that came first is newer.
latest as (
    select
        id,
        from_json(object, '{
            "amount": "BIGINT", "currency": "VARCHAR", "status": "VARCHAR", "method": "VARCHAR", "balance_transaction": "VARCHAR",
            "arrival_date": "BIGINT", "created": "BIGINT"
        }') as payout
    from versions
    qualify row_number() over (partition by id order by known_at desc, landed_at desc, landed_seq) = 1
)

select
    id::varchar as payout_id, -- Stripe payout (po_…)
    payout.balance_transaction::varchar as balance_transaction_id, -- Movement of the Stripe balance
    payout.amount::bigint as amount_minor, -- Amount paid out, in minor units; negative when Stripe collects
    upper(payout.currency)::varchar as currency, -- ISO 4217 code of the amounts
    payout.status::varchar as status, -- paid, pending, in_transit, canceled or failed
    payout.method::varchar as method, -- standard or instant
    to_timestamp(payout.arrival_date)::date as arrival_date, -- Day it reaches the bank (UTC)
    to_timestamp(payout.created)::timestamptz as created_at -- When Stripe made it (UTC)
from latest

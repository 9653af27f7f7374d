/* ---
grain:     one row per refund as the application booked it
key:       [app_refund_id]
partition: {by: created_at, every: month}
write:     merge
changed:   [raw_app__refunds]
by_key:    {raw_app__refunds: [id]}
passes:    [raw_app__refunds]
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [amount, currency, status, created_at]
  - between: {column: amount, min: 0}
--- */
with latest as (
    select *
    from raw_app__refunds
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::bigint as app_refund_id, -- Identifies the refund in the application
    payment_id::bigint as app_payment_id, -- Payment of the application that is given back
    nullif(trim(stripe_refund_id), '')::varchar as refund_id, -- Stripe refund it was made by (re_…); null for other methods
    amount::decimal(10,2) as amount, -- Amount in major units of the currency
    upper(trim(currency))::varchar as currency, -- ISO 4217 code of the amounts
    nullif(trim(reason), '')::varchar as reason, -- Why; null when nobody said
    status::varchar as status, -- Where the refund stands: pending, succeeded or failed
    created_at::timestamptz as created_at, -- When the row was made in the application (UTC)
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd'

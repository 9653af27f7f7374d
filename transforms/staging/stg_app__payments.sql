/* ---
grain:     one row per payment as the application booked it
key:       [app_payment_id]
partition: {by: created_at, every: month}
write:     merge
changed:   [raw_app__payments]
by_key:    {raw_app__payments: [id]}
passes:    [raw_app__payments]
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [order_id, amount, currency, created_at]
--- */
with latest as (
    select *
    from raw_app__payments
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::bigint as app_payment_id, -- Identifies the payment in the application
    order_id::uuid as order_id, -- Order that is paid
    nullif(trim(stripe_charge_id), '')::varchar as payment_id, -- Stripe charge it was made by (ch_…); null for other methods
    amount::decimal(10,2) as amount, -- Amount in major units of the currency
    upper(trim(currency))::varchar as currency, -- ISO 4217 code of the amounts
    method::varchar as method, -- How it was paid: card, wallet, transfer …
    status::varchar as status, -- Where the payment stands, in the application's words
    created_at::timestamptz as created_at, -- When the row was made in the application (UTC)
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd'

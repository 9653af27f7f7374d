/* ---
grain:     one row per product, currency and time a list price holds
key:       [product_price_id]
write:     merge
changed:   [raw_app__product_prices]
by_key:    {raw_app__product_prices: [id]}
passes:    [raw_app__product_prices]
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [product_id, currency, amount, valid_from]
  - between: {column: amount, min: 0}
--- */
with latest as (
    select *
    from raw_app__product_prices
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::bigint as product_price_id, -- Identifies the price
    product_id::bigint as product_id, -- Product it is the price of
    upper(trim(currency))::varchar as currency, -- ISO 4217 code of the amounts
    amount::decimal(12,2) as amount, -- List price in major units of the currency
    valid_from::timestamptz as valid_from, -- From when it holds (UTC)
    valid_to::timestamptz as valid_to, -- Until before when it holds (UTC); null: until further notice
    created_at::timestamptz as created_at, -- When the row was made in the application (UTC)
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd'

/* ---
grain:     one row per parcel that was sent for an order
key:       [shipment_id]
partition: {by: created_at, every: month}
write:     merge
changed:   [raw_app__shipments]
by_key:    {raw_app__shipments: [id]}
passes:    [raw_app__shipments]
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [order_id, created_at]
--- */
with latest as (
    select *
    from raw_app__shipments
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::bigint as shipment_id, -- Identifies the parcel
    order_id::uuid as order_id, -- Order it belongs to
    carrier::varchar as carrier, -- Who carries it
    nullif(trim(tracking_number), '')::varchar as tracking_number, -- The carrier's number; null until there is one
    status::varchar as status, -- Where the parcel is, in the application's words
    shipped_at::timestamptz as shipped_at, -- When it left (UTC); null until then
    delivered_at::timestamptz as delivered_at, -- When it arrived (UTC); null until then
    created_at::timestamptz as created_at, -- When the row was made in the application (UTC)
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd'

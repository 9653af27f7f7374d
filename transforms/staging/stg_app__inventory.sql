/* ---
grain:     one row per product and warehouse that stocks it
key:       [product_id, warehouse]
write:     merge
changed:   [raw_app__inventory]
by_key:    {raw_app__inventory: [product_id, warehouse]}
passes:    [raw_app__inventory]
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [quantity]
--- */
with latest as (
    select *
    from raw_app__inventory
    qualify row_number() over (partition by product_id, warehouse order by _landed_at desc, _seq desc) = 1
)

select
    product_id::bigint as product_id, -- Product in stock
    warehouse::varchar as warehouse, -- Warehouse it lies in
    quantity::integer as quantity, -- Pieces there
    reserved::integer as reserved, -- Pieces of them that are promised to orders
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd'

/* ---
grain:     one row per product of the catalogue
key:       [product_id]
write:     merge
changed:   [raw_app__products]
by_key:    {raw_app__products: [id]}
passes:    [raw_app__products]
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [sku, created_at]
--- */
with latest as (
    select *
    from raw_app__products
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::bigint as product_id, -- Identifies the product everywhere
    nullif(trim(sku), '')::varchar as sku, -- Stock keeping unit, unique
    nullif(trim(name), '')::varchar as name, -- Name of the product
    category_id::integer as category_id, -- Category it is sold under
    supplier_id::integer as supplier_id, -- Supplier it comes from
    nullif(trim(description), '')::varchar as description, -- Text on its page
    attributes::json as attributes, -- What else is known of it, as an object
    tags::varchar[] as tags, -- Words it is found by
    octet_length(image)::bigint as image_bytes, -- Size of its picture in bytes; null when it has none
    weight_kg::decimal(38,18) as weight_kg, -- Weight in kilograms
    is_active::boolean as is_active, -- Whether it can be ordered
    created_at::timestamptz as created_at, -- When the row was made in the application (UTC)
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd'

/* ---
grain:     one row per product category
key:       [category_id]
write:     replace_partition
passes:    [raw_app__categories]
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [category_name]
--- */
with latest as (
    select *
    from raw_app__categories
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::integer as category_id, -- Identifies the category
    parent_id::integer as parent_category_id, -- Category it is part of; null at the top
    nullif(trim(name), '')::varchar as category_name, -- Name of the category
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd'

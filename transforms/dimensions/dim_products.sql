/* ---
grain:     one row per product that anything refers to, also deleted ones and those that have not arrived yet
key:       [product_id]
write:     merge
by_key:    {stg_app__products: [product_id], raw_app__products: [id], stg_app__product_prices: [product_id]}
mentioned_by: {raw_app__orders: product_id}
owner:     data-team
freshness: 1 hour
indexes:
  idx_products_category: [category_name]
expect:
  - not_null: [is_deleted, is_inferred]
  - between: {column: unit_price_usd, min: 0}
--- */
-- Mostly none: where their keys are asked for first, no record has to be taken apart.
with gone as (
    select distinct id
    from raw_app__products
    where id not in (select product_id from stg_app__products)
),

deleted as (
    select
        id as product_id, nullif(trim(sku), '') as sku, nullif(trim(name), '') as name, category_id, supplier_id, tags, created_at, updated_at
    from raw_app__products
    inner join gone using (id)
    where _op <> 'd'
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
),

known as (
    select product_id, sku, name, category_id, supplier_id, tags, is_active, created_at, updated_at, false as is_deleted, false as is_inferred
    from stg_app__products
    union all
    select product_id, sku, name, category_id, supplier_id, tags, false, created_at, updated_at, true, false
    from deleted
),

members as (
    select * from known
    union all by name
    -- Every order ever landed is asked, also those deleted since: a member once inferred stays one.
    select distinct product_id, false as is_deleted, true as is_inferred
    from raw_app__orders
    where product_id is not null and product_id not in (select product_id from known)
),

-- The list price that stands until further notice.
prices as (
    select product_id, arg_max(amount, (valid_from, product_price_id)) as amount
    from stg_app__product_prices
    where currency = 'USD' and valid_to is null
    group by product_id
)

select
    members.product_id::bigint as product_id, -- Identifies the product everywhere
    members.sku::varchar as sku, -- Stock keeping unit, unique among products that are sold
    members.name::varchar as name, -- Name of the product
    members.category_id::integer as category_id, -- Category it is sold under
    categories.category_name::varchar as category_name, -- Name of that category
    members.supplier_id::integer as supplier_id, -- Supplier it comes from
    suppliers.supplier_name::varchar as supplier_name, -- Name of that supplier
    members.tags::varchar[] as tags, -- Words it is found by
    prices.amount::decimal(12,2) as unit_price_usd, -- List price that stands until further notice, in US dollars; null when it has none, or only one whose end is announced
    members.is_active::boolean as is_active, -- Whether it can be ordered; null for inferred products
    members.created_at::timestamptz as created_at, -- When it was entered into the catalogue (UTC); null for inferred products
    members.updated_at::timestamptz as updated_at, -- When it last changed in the application (UTC)
    members.is_deleted::boolean as is_deleted, -- Whether the application no longer has it; its last values are kept, facts still join
    members.is_inferred::boolean as is_inferred -- Whether only orders mention it so far; repaired when it arrives
from members
left join stg_app__categories as categories on members.category_id = categories.category_id
left join stg_app__suppliers as suppliers on members.supplier_id = suppliers.supplier_id
left join prices on members.product_id = prices.product_id

/* ---
grain:     one row per review that a user wrote of a product
key:       [review_id]
partition: {by: created_at, every: month}
write:     merge
changed:   [raw_app__reviews]
by_key:    {raw_app__reviews: [id]}
passes:    [raw_app__reviews]
owner:     data-team
freshness: 1 hour
pii:       [title, body]
expect:
  - between: {column: rating, min: 1, max: 5}
--- */
with latest as (
    select *
    from raw_app__reviews
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::bigint as review_id, -- Identifies the review
    order_id::uuid as order_id, -- Order the product came with
    user_id::bigint as user_id, -- User who wrote it
    product_id::bigint as product_id, -- Product it is about
    rating::smallint as rating, -- 1 (worst) to 5 (best)
    nullif(trim(title), '')::varchar as title, -- Its title
    nullif(trim(body), '')::varchar as body, -- Its text; null for a mere rating
    created_at::timestamptz as created_at, -- When the row was made in the application (UTC)
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd'

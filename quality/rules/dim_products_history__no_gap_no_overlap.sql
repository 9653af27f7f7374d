/* ---
kind: consistency
description: The versions of a product follow each other without gap or overlap; the open one is the current one.
--- */
with chain as (
    select
        product_id,
        valid_from,
        valid_to,
        is_current,
        lead(valid_from) over (partition by product_id order by valid_from) as next_from
    from dim_products_history
)

select product_id, valid_from, valid_to, next_from, is_current
from chain
where
    valid_to <= valid_from
    or (next_from is not null and valid_to is distinct from next_from)
    or is_current is distinct from (valid_to is null)

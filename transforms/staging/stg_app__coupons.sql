/* ---
grain:     one row per coupon
key:       [coupon_code]
write:     replace_partition
passes:    [raw_app__coupons]
owner:     data-team
freshness: 1 hour
expect:
  - between: {column: percent_off, min: 0, max: 100}
--- */
with latest as (
    select *
    from raw_app__coupons
    qualify row_number() over (partition by code order by _landed_at desc, _seq desc) = 1
)

select
    code::varchar as coupon_code, -- Code that customers type in
    percent_off::decimal(5,2) as percent_off, -- Discount in percent of the price
    case
        when valid_during = 'empty' then created_at
        else try_cast(nullif(regexp_extract(valid_during, '^[\[(]"?([^",]*)', 1), '') as timestamptz)
    end::timestamptz as valid_from, -- From when it can be used (UTC); null: always could
    case
        when valid_during = 'empty' then created_at
        else try_cast(nullif(regexp_extract(valid_during, ',"?([^",)\]]*)"?[)\]]$', 1), '') as timestamptz)
    end::timestamptz as valid_to, -- Until before when it can be used (UTC), which is valid_from of one that never can; null: without end
    max_uses::integer as max_uses, -- How often it can be used at most; null: without limit
    created_at::timestamptz as created_at, -- When the row was made in the application (UTC)
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd'

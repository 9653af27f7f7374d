/* ---
grain:     one row per postal address that a user keeps
key:       [address_id]
write:     merge
changed:   [raw_app__addresses]
by_key:    {raw_app__addresses: [id]}
passes:    [raw_app__addresses]
owner:     data-team
freshness: 1 hour
pii:       [line1, city, postal_code]
expect:
  - not_null: [user_id]
--- */
with latest as (
    select *
    from raw_app__addresses
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::bigint as address_id, -- Identifies the address
    user_id::bigint as user_id, -- User it belongs to
    nullif(lower(trim(kind)), '')::varchar as kind, -- What it serves: shipping or billing
    nullif(trim(line1), '')::varchar as line1, -- Street and number
    nullif(trim(city), '')::varchar as city, -- City
    nullif(trim(postal_code), '')::varchar as postal_code, -- Postal code
    nullif(upper(trim(country)), '')::varchar as country, -- ISO 3166 code of the country
    is_default::boolean as is_default, -- Whether it is used when the user names none
    created_at::timestamptz as created_at, -- When the row was made in the application (UTC)
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd'

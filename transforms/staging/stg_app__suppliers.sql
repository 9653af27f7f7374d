/* ---
grain:     one row per supplier
key:       [supplier_id]
write:     replace_partition
passes:    [raw_app__suppliers]
owner:     data-team
freshness: 1 hour
pii:       [contact_email]
expect:
  - not_null: [supplier_name]
--- */
with latest as (
    select *
    from raw_app__suppliers
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::integer as supplier_id, -- Identifies the supplier
    nullif(trim(name), '')::varchar as supplier_name, -- Name of the supplier
    nullif(upper(trim(country)), '')::varchar as country, -- ISO 3166 code of the country
    nullif(trim(contact_email), '')::varchar as contact_email, -- E-mail address of the supplier's contact
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd'

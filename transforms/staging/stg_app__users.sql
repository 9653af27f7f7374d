/* ---
grain:     one row per user of the application who has not been deleted
key:       [user_id]
write:     merge
changed:   [raw_app__users]
by_key:    {raw_app__users: [id]}
passes:    [raw_app__users]
owner:     data-team
freshness: 1 hour
pii:       [email, name, last_ip]
expect:
  - not_null: [created_at]
  - accepted_values: {column: plan, values: [free, pro, team]}
    severity: warning
--- */
with latest as (
    select *
    from raw_app__users
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::bigint as user_id, -- Identifies the user everywhere
    nullif(trim(email), '')::varchar as email, -- E-mail address, as the user wrote it
    nullif(lower(trim(name)), '')::varchar as name, -- Name in lower case
    nullif(upper(trim(country)), '')::varchar as country, -- ISO 3166 code of the country the user lives in
    nullif(trim(locale), '')::varchar as locale, -- Language and region the user reads in, e.g. de-DE
    plan::varchar as plan, -- Plan the user is on: free, pro or team
    marketing_opt_in::boolean as marketing_opt_in, -- Whether the user agreed to marketing e-mail
    last_ip::varchar as last_ip, -- Network address of the last visit
    created_at::date as signup_date, -- Day the user signed up (UTC)
    created_at::timestamptz as created_at, -- When the row was made in the application (UTC)
    updated_at::timestamptz as updated_at -- When the row last changed in the application (UTC)
from latest
where _op <> 'd' and deleted_at is null

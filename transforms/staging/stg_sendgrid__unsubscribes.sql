/* ---
grain:     one row per recipient who wants no more e-mail
key:       [unsubscribe_id]
write:     merge
changed:   [raw_sendgrid__unsubscribes]
by_key:    {raw_sendgrid__unsubscribes: [id]}
owner:     data-team
freshness: 1 hour
pii:       [email]
expect:
  - not_null: [email, created_at]
--- */
with latest as (
    select
        id,
        from_json(object, '{"email": "VARCHAR", "created": "BIGINT"}') as entry
    from raw_sendgrid__unsubscribes
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::varchar as unsubscribe_id, -- Digest of address and time, which SendGrid tells entries apart by
    nullif(lower(trim(entry.email)), '')::varchar as email, -- Address of the recipient in lower case
    to_timestamp(entry.created)::timestamptz as created_at -- When SendGrid put the address on this list (UTC)
from latest

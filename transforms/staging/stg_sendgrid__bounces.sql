/* ---
grain:     one row per entry of an address that SendGrid found not to exist
key:       [bounce_id]
write:     merge
changed:   [raw_sendgrid__bounces]
by_key:    {raw_sendgrid__bounces: [id]}
owner:     data-team
freshness: 1 hour
pii:       [email]
expect:
  - not_null: [email, created_at]
--- */
with latest as (
    select
        id,
        from_json(object, '{"email": "VARCHAR", "created": "BIGINT", "reason": "VARCHAR", "status": "VARCHAR"}') as entry
    from raw_sendgrid__bounces
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::varchar as bounce_id, -- Digest of address and time, which SendGrid tells entries apart by
    nullif(lower(trim(entry.email)), '')::varchar as email, -- Address of the recipient in lower case
    replace(entry.reason, chr(0), chr(65533))::varchar as reason, -- What the receiving server said
    entry.status::varchar as status, -- Enhanced status code (RFC 3463), e.g. 5.1.1
    to_timestamp(entry.created)::timestamptz as created_at -- When SendGrid put the address on this list (UTC)
from latest

/* ---
grain:     one row per report of a recipient who called a message spam
key:       [spam_report_id]
write:     merge
changed:   [raw_sendgrid__spam_reports]
by_key:    {raw_sendgrid__spam_reports: [id]}
owner:     data-team
freshness: 1 hour
pii:       [email, ip]
expect:
  - not_null: [email, created_at]
--- */
with latest as (
    select
        id,
        from_json(object, '{"email": "VARCHAR", "created": "BIGINT", "ip": "VARCHAR"}') as entry
    from raw_sendgrid__spam_reports
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::varchar as spam_report_id, -- Digest of address and time, which SendGrid tells entries apart by
    nullif(lower(trim(entry.email)), '')::varchar as email, -- Address of the recipient in lower case
    entry.ip::varchar as ip, -- Address the message was sent from
    to_timestamp(entry.created)::timestamptz as created_at -- When SendGrid put the address on this list (UTC)
from latest

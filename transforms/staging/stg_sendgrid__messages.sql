/* ---
grain:     one row per e-mail in SendGrid's activity feed, as it last was
key:       [message_id]
write:     merge
by_key:    {raw_sendgrid__messages: [id]}
owner:     data-team
freshness: 1 hour
pii:       [to_email, subject]
expect:
  - not_null: [to_email, status, opens, clicks, last_event_at]
  - accepted_values: {column: status, values: [processed, delivered, not_delivered]}
--- */
with versions as (
    select
        id,
        _landed_at,
        _seq,
        from_json(object, '{
            "from_email": "VARCHAR", "to_email": "VARCHAR", "subject": "VARCHAR", "status": "VARCHAR",
            "opens_count": "BIGINT", "clicks_count": "BIGINT", "last_event_time": "VARCHAR"
        }') as message
    from raw_sendgrid__messages
),

latest as (
    select
        id,
        message,
        try_cast(message.last_event_time as timestamptz) as last_event_at,
        min(try_cast(message.last_event_time as timestamptz)) over (partition by id) as first_event_at
    from versions
    qualify row_number() over (partition by id order by last_event_at desc nulls last, _landed_at desc, _seq desc) = 1
)

select
    id::varchar as message_id, -- Identifies the e-mail at SendGrid
    nullif(lower(trim(message.to_email)), '')::varchar as to_email, -- Address of the recipient in lower case
    lower(trim(message.from_email))::varchar as from_email, -- Address it was sent from
    replace(message.subject, chr(0), chr(65533))::varchar as subject, -- Subject line
    message.status::varchar as status, -- processed, delivered or not_delivered
    message.opens_count::bigint as opens, -- How often it was opened
    message.clicks_count::bigint as clicks, -- How often a link in it was clicked
    first_event_at::timestamptz as first_event_at, -- Earliest activity that was read (UTC); the feed only tells the last one
    last_event_at::timestamptz as last_event_at -- Last activity (UTC)
from latest

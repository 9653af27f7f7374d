/* ---
grain:     one row per e-mail that SendGrid took on, as it last was
# SendGrid does not say when an e-mail was sent, only its last activity: there is no column that never changes to partition by.
key:       [message_id]
write:     merge
by_key:    {stg_sendgrid__messages: [message_id]}
looks_up:  {stg_app__users: {found: user_id, of: to_email, by: lower(email)}}
owner:     data-team
freshness: 1 hour
pii:       [subject, recipient_hash]
indexes:
  idx_emails_user: [user_id]
  idx_emails_last_event: [last_event_at desc]
expect:
  - not_null: [status, opens, clicks, last_event_at]
  - between: {column: opens, min: 0}
  - between: {column: clicks, min: 0}
  - accepted_values: {column: status, values: [processed, delivered, not_delivered]}
  - references: {column: user_id, table: dim_users}
--- */
with recipients as (
    select lower(email) as email, min(user_id) as user_id
    from stg_app__users
    where email is not null
    group by lower(email)
)

select
    messages.message_id::varchar as message_id,
    recipients.user_id::bigint as user_id, -- User who has that address now, the oldest if several do; null for others
    sha256(messages.to_email)::varchar as recipient_hash, -- SHA-256 of the address in lower case: tells recipients apart without naming them
    split_part(messages.to_email, '@', -1)::varchar as recipient_domain, -- Domain of the address
    messages.subject::varchar as subject,
    messages.status::varchar as status,
    messages.opens::bigint as opens,
    messages.clicks::bigint as clicks,
    (messages.opens > 0)::boolean as is_opened, -- Whether it was opened at least once
    (messages.clicks > 0)::boolean as is_clicked, -- Whether a link in it was clicked at least once
    messages.first_event_at::timestamptz as first_event_at,
    messages.last_event_at::timestamptz as last_event_at
from stg_sendgrid__messages as messages
left join recipients on messages.to_email = recipients.email

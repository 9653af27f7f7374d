/* ---
grain:     one row per day of SendGrid's statistics, from the first on which an e-mail was requested
key:       [date]
write:     merge
owner:     data-team
freshness: 1 day
expect:
  - not_null: [sent, delivered]
  - between: {column: delivery_rate, min: 0}
--- */
select
    date::date as date,
    requests::bigint as requests,
    processed::bigint as sent, -- E-mails SendGrid took on
    delivered::bigint as delivered,
    opens::bigint as opens,
    unique_opens::bigint as opened, -- Recipients who opened
    clicks::bigint as clicks,
    unique_clicks::bigint as clicked, -- Recipients who clicked
    bounces::bigint as bounced, -- E-mails whose address does not exist
    blocks::bigint as blocked, -- E-mails refused for a reason that may pass
    deferred::bigint as deferred,
    spam_reports::bigint as spam_reports,
    unsubscribes::bigint as unsubscribes,
    (delivered / nullif(processed, 0))::double as delivery_rate, -- delivered / sent; null when nothing was sent
    (unique_opens / nullif(delivered, 0))::double as open_rate, -- opened / delivered; null when nothing was delivered
    (unique_clicks / nullif(delivered, 0))::double as click_rate -- clicked / delivered; null when nothing was delivered
from stg_sendgrid__stats
-- SendGrid fills the years before the account was used with days of zeros.
where date >= (select min(first_used.date) from stg_sendgrid__stats as first_used where first_used.requests > 0)

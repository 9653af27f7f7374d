/* ---
grain:     one row per day of SendGrid's own statistics
key:       [date]
write:     replace_partition
owner:     data-team
freshness: 1 day
expect:
  - between: {column: delivered, min: 0}
--- */
with latest as (
    select from_json(object, '{
        "date": "VARCHAR",
        "stats": [{"metrics": {
            "requests": "BIGINT", "processed": "BIGINT", "delivered": "BIGINT", "deferred": "BIGINT", "opens":
            "BIGINT", "unique_opens": "BIGINT", "clicks": "BIGINT", "unique_clicks": "BIGINT", "bounces":
            "BIGINT", "bounce_drops": "BIGINT", "blocks": "BIGINT", "invalid_emails": "BIGINT", "spam_reports":
            "BIGINT", "spam_report_drops": "BIGINT", "unsubscribes": "BIGINT", "unsubscribe_drops": "BIGINT"
        }}]
    }') as day
    from raw_sendgrid__stats
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    day.date::date as date, -- Day the statistics are about, in SendGrid's time (UTC)
    coalesce(list_sum([entry.metrics.requests for entry in day.stats]), 0)::bigint as requests, -- E-mails that were asked for
    coalesce(list_sum([entry.metrics.processed for entry in day.stats]), 0)::bigint as processed, -- E-mails SendGrid took on: what was sent
    coalesce(list_sum([entry.metrics.delivered for entry in day.stats]), 0)::bigint as delivered, -- E-mails the receiving servers took
    coalesce(list_sum([entry.metrics.deferred for entry in day.stats]), 0)::bigint as deferred, -- Attempts put off by receiving servers
    coalesce(list_sum([entry.metrics.opens for entry in day.stats]), 0)::bigint as opens, -- Openings, repeated ones counted
    coalesce(list_sum([entry.metrics.unique_opens for entry in day.stats]), 0)::bigint as unique_opens, -- Recipients who opened
    coalesce(list_sum([entry.metrics.clicks for entry in day.stats]), 0)::bigint as clicks, -- Clicks on links, repeated ones counted
    coalesce(list_sum([entry.metrics.unique_clicks for entry in day.stats]), 0)::bigint as unique_clicks, -- Recipients who clicked
    coalesce(list_sum([entry.metrics.bounces for entry in day.stats]), 0)::bigint as bounces, -- E-mails whose address does not exist
    coalesce(list_sum([entry.metrics.bounce_drops for entry in day.stats]), 0)::bigint as bounce_drops, -- E-mails not sent for an earlier bounce
    coalesce(list_sum([entry.metrics.blocks for entry in day.stats]), 0)::bigint as blocks, -- E-mails refused for a reason that may pass
    coalesce(list_sum([entry.metrics.invalid_emails for entry in day.stats]), 0)::bigint as invalid_emails, -- E-mails to what is no address
    coalesce(list_sum([entry.metrics.spam_reports for entry in day.stats]), 0)::bigint as spam_reports, -- Recipients who called it spam
    coalesce(list_sum([entry.metrics.spam_report_drops for entry in day.stats]), 0)::bigint as spam_report_drops, -- E-mails not sent for an earlier report
    coalesce(list_sum([entry.metrics.unsubscribes for entry in day.stats]), 0)::bigint as unsubscribes, -- Recipients who want no more
    coalesce(list_sum([entry.metrics.unsubscribe_drops for entry in day.stats]), 0)::bigint as unsubscribe_drops -- E-mails not sent for that
from latest

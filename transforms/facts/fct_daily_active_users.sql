/* ---
grain:     one row per day with at least one event
key:       [date]
partition: {by: date, every: day}
write:     merge
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [daily_active_users]
  - between: {column: daily_active_users, min: 0}
--- */
select
    event_time::date as date, -- Day (UTC)
    count(distinct user_id)::bigint as daily_active_users -- Signed-in users with at least one event that day; 0 when there were only visitors
from fct_events
group by event_time::date

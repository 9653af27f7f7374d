/* ---
grain:     one row per day and kind of event
key:       [date, event_type]
partition: {by: date, every: day}
write:     merge
owner:     data-team
freshness: 1 hour
lengths:   {event_type: 50}
expect:
  - not_null: [events, active_users]
  - between: {column: events, min: 1}
  - between: {column: active_users, min: 0}
--- */
select
    event_time::date as date, -- Day (UTC)
    event_type::varchar as event_type,
    count(*)::bigint as events, -- Events of this kind, of users and visitors
    count(distinct user_id)::bigint as active_users -- Signed-in users with at least one of them; who did two kinds counts in both
from fct_events
group by event_time::date, event_type

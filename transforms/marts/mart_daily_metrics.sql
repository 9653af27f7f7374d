/* ---
grain:     one row per day with at least one event
key:       [date]
partition: {by: date, every: day}
write:     merge
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [total_events, active_users]
  - between: {column: total_events, min: 1}
  - between: {column: active_users, min: 0}
--- */
select
    event_time::date as date, -- Day (UTC)
    count(*)::bigint as total_events, -- Events of users and visitors
    count(distinct user_id)::bigint as active_users, -- Signed-in users with at least one event
    count(user_id)::bigint as signed_in_events, -- Events of signed-in users
    (count(*) - count(user_id))::bigint as anonymous_events, -- Events of visitors who were not signed in
    count(distinct session_id)::bigint as sessions -- Visits with at least one event, as the producer counts them
from fct_events
group by event_time::date

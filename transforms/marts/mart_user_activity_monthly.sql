/* ---
grain:     one row per signed-in user and month with at least one event
key:       [month, user_id]
partition: {by: month, every: month}
write:     merge
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [active_days, events, sessions, session_seconds, first_event_at, last_event_at]
  - between: {column: active_days, min: 1, max: 31}
  - references: {column: user_id, table: dim_users}
--- */
select
    date_trunc('month', date)::date as month, -- First day of the month (UTC)
    user_id::bigint as user_id,
    count(*)::bigint as active_days, -- Days with at least one event
    sum(events)::bigint as events, -- Events of all kinds
    sum(page_views)::bigint as page_views, -- Pages shown
    sum(clicks)::bigint as clicks, -- Clicks
    sum(sessions)::bigint as sessions, -- Sittings; one that lasts past midnight counts on both days
    sum(session_seconds)::bigint as session_seconds, -- Whole seconds from first to last event of each session, summed
    min(first_event_at)::timestamptz as first_event_at, -- First event of the month (UTC)
    max(last_event_at)::timestamptz as last_event_at -- Last event of the month (UTC)
from mart_user_activity
group by date_trunc('month', date), user_id

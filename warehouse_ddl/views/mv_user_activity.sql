-- What each user did, all months together. Reads the months, so that a refresh never scans the days of years.
-- In the key's order: REFRESH CONCURRENTLY sorts whole rows to look for two alike, which takes a quarter of the time when they come sorted.
create materialized view if not exists analytics.mv_user_activity as
select
    user_id,
    sum(active_days)::bigint as active_days,
    sum(events)::bigint as events,
    sum(sessions)::bigint as sessions,
    sum(session_seconds)::bigint as session_seconds,
    min(first_event_at) as first_event_at,
    max(last_event_at) as last_event_at
from analytics.mart_user_activity_monthly
group by user_id
order by user_id;

create unique index if not exists idx_mv_user_activity on analytics.mv_user_activity (user_id);

comment on materialized view analytics.mv_user_activity is 'One row per user who was ever active: days, events, sittings, first and last event.';
comment on column analytics.mv_user_activity.active_days is 'Days with at least one event, of all months';
comment on column analytics.mv_user_activity.events is 'Events of all kinds, of all months';
comment on column analytics.mv_user_activity.sessions is 'Sittings; one that lasts past midnight counts on both days';
comment on column analytics.mv_user_activity.session_seconds is 'Whole seconds from first to last event of each session, summed';
comment on column analytics.mv_user_activity.first_event_at is 'First event there ever was (UTC)';
comment on column analytics.mv_user_activity.last_event_at is 'Last event so far (UTC)';

-- Events and users per day. Reads the mart, so that a refresh never scans the events.
create materialized view if not exists analytics.mv_daily_metrics as
select
    date,
    total_events,
    active_users,
    round(total_events::numeric / nullif(active_users, 0), 2) as events_per_active_user
from analytics.mart_daily_metrics;

create unique index if not exists idx_mv_daily_metrics on analytics.mv_daily_metrics (date);

comment on materialized view analytics.mv_daily_metrics is 'One row per day (UTC): events and the signed-in users behind them.';
comment on column analytics.mv_daily_metrics.events_per_active_user is 'total_events / active_users; null on a day of visitors alone';

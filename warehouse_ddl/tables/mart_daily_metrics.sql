-- Generated from transforms/marts/mart_daily_metrics.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.mart_daily_metrics (
    date date not null,
    total_events bigint not null,
    active_users bigint not null,
    signed_in_events bigint,
    anonymous_events bigint,
    sessions bigint,
    constraint mart_daily_metrics_pkey primary key (date)
);
comment on table analytics.mart_daily_metrics is 'One row per day with at least one event.';
comment on column analytics.mart_daily_metrics.date is 'Day (UTC)';
comment on column analytics.mart_daily_metrics.total_events is 'Events of users and visitors';
comment on column analytics.mart_daily_metrics.active_users is 'Signed-in users with at least one event';
comment on column analytics.mart_daily_metrics.signed_in_events is 'Events of signed-in users';
comment on column analytics.mart_daily_metrics.anonymous_events is 'Events of visitors who were not signed in';
comment on column analytics.mart_daily_metrics.sessions is 'Visits with at least one event, as the producer counts them';

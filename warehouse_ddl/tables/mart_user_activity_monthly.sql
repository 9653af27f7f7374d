-- Generated from transforms/marts/mart_user_activity_monthly.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.mart_user_activity_monthly (
    month date not null,
    user_id bigint not null,
    active_days bigint not null,
    events bigint not null,
    page_views bigint,
    clicks bigint,
    sessions bigint not null,
    session_seconds bigint not null,
    first_event_at timestamp with time zone not null,
    last_event_at timestamp with time zone not null,
    constraint mart_user_activity_monthly_pkey primary key (month, user_id)
);
comment on table analytics.mart_user_activity_monthly is 'One row per signed-in user and month with at least one event.';
comment on column analytics.mart_user_activity_monthly.month is 'First day of the month (UTC)';
comment on column analytics.mart_user_activity_monthly.user_id is 'Signed-in user';
comment on column analytics.mart_user_activity_monthly.active_days is 'Days with at least one event';
comment on column analytics.mart_user_activity_monthly.events is 'Events of all kinds';
comment on column analytics.mart_user_activity_monthly.page_views is 'Pages shown';
comment on column analytics.mart_user_activity_monthly.clicks is 'Clicks';
comment on column analytics.mart_user_activity_monthly.sessions is 'Sittings; one that lasts past midnight counts on both days';
comment on column analytics.mart_user_activity_monthly.session_seconds is 'Whole seconds from first to last event of each session, summed';
comment on column analytics.mart_user_activity_monthly.first_event_at is 'First event of the month (UTC)';
comment on column analytics.mart_user_activity_monthly.last_event_at is 'Last event of the month (UTC)';

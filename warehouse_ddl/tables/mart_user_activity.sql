-- Generated from transforms/marts/mart_user_activity.py by `python -m warehouse_ddl`. Change that file, then run it again.
-- Each leaf has these indexes, one that the stream writes into once it is sealed:
--   idx_user_activity_user (user_id, date desc)

create table if not exists analytics.mart_user_activity (
    date date not null,
    user_id bigint not null,
    events bigint not null,
    page_views bigint,
    clicks bigint,
    sessions bigint not null,
    session_seconds bigint not null,
    first_event_at timestamp with time zone not null,
    last_event_at timestamp with time zone not null,
    constraint mart_user_activity_pkey primary key (date, user_id)
) partition by range (date);
comment on table analytics.mart_user_activity is 'Sessions are counted within the day: midnight (UTC) ends one. One row per signed-in user and day with at least one event.';
comment on column analytics.mart_user_activity.date is 'Day (UTC)';
comment on column analytics.mart_user_activity.user_id is 'Signed-in user';
comment on column analytics.mart_user_activity.events is 'Events of all kinds';
comment on column analytics.mart_user_activity.page_views is 'Pages shown';
comment on column analytics.mart_user_activity.clicks is 'Clicks';
comment on column analytics.mart_user_activity.sessions is 'Sittings: events with pauses of at most 30 minutes between them';
comment on column analytics.mart_user_activity.session_seconds is 'Whole seconds from first to last event of each session, summed';
comment on column analytics.mart_user_activity.first_event_at is 'First event of the day (UTC)';
comment on column analytics.mart_user_activity.last_event_at is 'Last event of the day (UTC)';

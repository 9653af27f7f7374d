-- Generated from transforms/marts/mart_daily_event_types.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.mart_daily_event_types (
    date date not null,
    event_type character varying(50) not null,
    events bigint not null,
    active_users bigint not null,
    constraint mart_daily_event_types_pkey primary key (date, event_type)
);
comment on table analytics.mart_daily_event_types is 'One row per day and kind of event.';
comment on column analytics.mart_daily_event_types.date is 'Day (UTC)';
comment on column analytics.mart_daily_event_types.event_type is 'What happened: the producer''s word, or page_view, or click';
comment on column analytics.mart_daily_event_types.events is 'Events of this kind, of users and visitors';
comment on column analytics.mart_daily_event_types.active_users is 'Signed-in users with at least one of them; who did two kinds counts in both';

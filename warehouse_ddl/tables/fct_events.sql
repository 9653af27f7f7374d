-- Generated from transforms/facts/fct_events.sql by `python -m warehouse_ddl`. Change that file, then run it again.
-- Each leaf has these indexes, one that the stream writes into once it is sealed:
--   idx_events_user_time (user_id, event_time desc)
--   idx_events_type_time (event_type, event_time desc)

create table if not exists analytics.fct_events (
    event_id uuid not null,
    user_id bigint,
    event_type character varying(50) not null,
    event_time timestamp with time zone not null,
    page text,
    session_id text,
    properties jsonb,
    anonymous_id text,
    topic_rank smallint,
    kafka_partition integer,
    kafka_offset bigint,
    constraint fct_events_pkey primary key (event_id, event_time)
) partition by range (event_time);
comment on table analytics.fct_events is 'One row per event of the product, be it sent as a user event, a page view or a click.';
comment on column analytics.fct_events.event_id is 'Identifies the event; given by the producer';
comment on column analytics.fct_events.user_id is 'Signed-in user; null for a visitor';
comment on column analytics.fct_events.event_type is 'What happened: the producer''s word, or page_view, or click';
comment on column analytics.fct_events.event_time is 'When it happened, by the producer''s clock (UTC)';
comment on column analytics.fct_events.page is 'Path of the page it happened on';
comment on column analytics.fct_events.session_id is 'Visit, as the producer counts them';
comment on column analytics.fct_events.properties is 'What the producer says beside, as an object; for page views and clicks their own fields';
comment on column analytics.fct_events.anonymous_id is 'Browser or device, the same before and after signing in';
comment on column analytics.fct_events.topic_rank is 'Topic it came from: 0 user_events, 1 page_views, 2 clicks; of copies in two topics the lower one stays';
comment on column analytics.fct_events.kafka_partition is 'Partition of that topic; of two copies in one topic the lower one stays';
comment on column analytics.fct_events.kafka_offset is 'Offset in that partition; of two copies in one partition the lower one stays';

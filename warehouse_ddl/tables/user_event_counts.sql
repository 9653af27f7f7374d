-- Generated from transforms/marts/user_event_counts.sql by `python -m warehouse_ddl`. Change that file, then run it again.
-- Each leaf has these indexes, one that the stream writes into once it is sealed:
--   idx_user_event_counts_window (window_start)

create table if not exists analytics.user_event_counts (
    user_id bigint not null,
    window_start timestamp with time zone not null,
    window_end timestamp with time zone not null,
    event_count bigint not null,
    revision bigint,
    is_final boolean,
    constraint user_event_counts_pkey primary key (user_id, window_start)
) partition by range (window_start);
comment on table analytics.user_event_counts is 'One row per signed-in user and five minutes in which the product sent a user event about them.';
comment on column analytics.user_event_counts.user_id is 'Signed-in user; null for a visitor';
comment on column analytics.user_event_counts.window_start is 'Start of the five minutes, a multiple of five past the hour (UTC)';
comment on column analytics.user_event_counts.window_end is 'End of the five minutes, itself not part of them (UTC)';
comment on column analytics.user_event_counts.event_count is 'Events of the topic user_events; page views and clicks are not counted';
comment on column analytics.user_event_counts.revision is 'How often this count was published; each change that the stream or a correction makes raises it';
comment on column analytics.user_event_counts.is_final is 'Whether the stream has closed the window: only corrections of the batch change it then; null where no stream counts';

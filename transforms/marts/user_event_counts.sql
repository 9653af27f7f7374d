/* ---
grain:     one row per signed-in user and five minutes in which the product sent a user event about them
key:       [user_id, window_start]
partition: {by: window_start, every: day}
write:     replace_partition
owner:     data-team
freshness: 1 hour
retention: 1095 days
windowed:  {adds: event_count, end: window_end, lateness: 1 hour, topic: user_event_counts}
indexes:
  idx_user_event_counts_window: [window_start]
expect:
  - not_null: [window_end, event_count]
  - between: {column: event_count, min: 1}
  - references: {column: user_id, table: dim_users}
--- */
select
    user_id::bigint as user_id,
    time_bucket(interval 5 minutes, event_time)::timestamptz as window_start, -- Start of the five minutes, a multiple of five past the hour (UTC)
    (time_bucket(interval 5 minutes, event_time) + interval 5 minutes)::timestamptz as window_end, -- End of the five minutes, itself not part of them (UTC)
    count(*)::bigint as event_count, -- Events of the topic user_events; page views and clicks are not counted
    1::bigint as revision, -- How often this count was published; each change that the stream or a correction makes raises it
    null::boolean as is_final -- Whether the stream has closed the window: only corrections of the batch change it then; null where no stream counts
from stg_events__user_events
where user_id is not null
group by user_id, time_bucket(interval 5 minutes, event_time)

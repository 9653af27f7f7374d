/* ---
grain:     one row per signed-in user and five minutes in which the product sent a user event about them
key:       [user_id, window_start]
partition: {by: window_start, every: day}
write:     replace_partition
owner:     data-team
freshness: 1 hour
retention: 1095 days
expect:
  - not_null: [window_end, event_count]
  - between: {column: event_count, min: 1}
  - references: {column: user_id, table: dim_users}
--- */
select
    user_id::bigint as user_id,
    time_bucket(interval 5 minutes, event_time)::timestamptz as window_start, -- Start of the five minutes, a multiple of five past the hour (UTC)
    (time_bucket(interval 5 minutes, event_time) + interval 5 minutes)::timestamptz as window_end, -- End of the five minutes, itself not part of them (UTC)
    count(*)::bigint as event_count -- Events of the topic user_events; page views and clicks are not counted
from stg_events__user_events
where user_id is not null
group by user_id, time_bucket(interval 5 minutes, event_time)

/* ---
grain:     one row per event of the product, be it sent as a user event, a page view or a click
key:       [event_id, event_time]
partition: {by: event_time, every: day}
write:     append
# A copy in another topic is a copy too. The topic that user_event_counts counts comes first: what is counted there never loses.
tie_break: [topic_rank, kafka_partition, kafka_offset]
lookback:  8 days
owner:     data-team
freshness: 1 hour
retention: 1095 days
lengths:   {event_type: 50}
indexes:
  idx_events_user_time: [user_id, event_time desc]
  idx_events_type_time: [event_type, event_time desc]
expect:
  - not_null: [event_type]
  - unique: [event_id]
  # No foreign key: it costs 16 µs a row and locks the dimension when a day is attached.
  - references: {column: user_id, table: dim_users}
--- */
with events as (
    select
        event_id, user_id, event_type, event_time, page, session_id, properties, anonymous_id, 0 as topic_rank, kafka_partition, kafka_offset
    from stg_events__user_events
    union all
    select
        event_id, user_id, 'page_view', event_time, path, session_id,
        json_object('referrer', referrer, 'title', title, 'duration_ms', duration_ms), anonymous_id, 1, kafka_partition, kafka_offset
    from stg_events__page_views
    union all
    select
        event_id, user_id, 'click', event_time, page, session_id,
        json_object('element', element, 'x', x, 'y', y), anonymous_id, 2, kafka_partition, kafka_offset
    from stg_events__clicks
)

select
    event_id::uuid as event_id, -- Identifies the event; given by the producer
    user_id::bigint as user_id, -- Signed-in user; null for a visitor
    event_type::varchar as event_type, -- What happened: the producer's word, or page_view, or click
    event_time::timestamptz as event_time, -- When it happened, by the producer's clock (UTC)
    page::varchar as page, -- Path of the page it happened on
    session_id::varchar as session_id, -- Visit, as the producer counts them
    properties::json as properties, -- What the producer says beside, as an object; for page views and clicks their own fields
    anonymous_id::varchar as anonymous_id, -- Browser or device, the same before and after signing in
    topic_rank::smallint as topic_rank, -- Topic it came from: 0 user_events, 1 page_views, 2 clicks; of copies in two topics the lower one stays
    kafka_partition::integer as kafka_partition, -- Partition of that topic; of two copies in one topic the lower one stays
    kafka_offset::bigint as kafka_offset -- Offset in that partition; of two copies in one partition the lower one stays
from events

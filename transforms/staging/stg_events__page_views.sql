/* ---
grain:     one row per page that was shown
key:       [event_id]
partition: {by: event_time, every: day}
write:     append
tie_break: [kafka_partition, kafka_offset]
lookback:  8 days
owner:     data-team
freshness: 1 hour
retention: 1095 days
expect:
  - not_null: [event_time]
  - between: {column: event_time, min: 2000-01-01}
--- */
with texts as (
    -- PostgreSQL can't hold NUL. `\\` is put aside meanwhile, or the text "\\u0000" (a backslash, then u0000) would be taken for one.
    select
        raw.*,
        try(decode(case when octet_length(raw.value) <= 1048576 then raw.value end)) as received,
        case
            when contains(received, '\u0000')
                then replace(replace(replace(received, '\\', chr(1)), '\u0000', '\ufffd'), chr(1), '\\')
            else received
        end as text
    from raw_events__page_views as raw
),

parsed as (
    select
        texts.*,
        -- Once a row fails, `try` goes through all of its vector row by row: what is no JSON is not tried.
        try(from_json(case when json_valid(text) then text end, '{
            "event_id": "VARCHAR", "event_time": "VARCHAR", "user_id": "JSON", "anonymous_id": "VARCHAR",
            "session_id": "VARCHAR", "path": "VARCHAR", "referrer": "VARCHAR", "title": "VARCHAR", "duration_ms": "JSON"
        }')) as event
    from texts
),

typed as (
    select
        parsed.*,
        try_cast(event.event_id as uuid) as event_id,
        case
            when regexp_full_match(event.event_time, '\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.]\d+)?)?(Z|[+-]\d\d(:?\d\d)?)')
                then try_cast(event.event_time as timestamptz)
        end as event_time,
        case when regexp_full_match(event.user_id, '-?[0-9]+') then try_cast(event.user_id as bigint) end as user_id,
        -- `from_json` makes a text of anything. Only what looks like another thing is asked what it is.
        case
            when regexp_matches(event.anonymous_id, '^([\[{]|(-?[0-9][-+.0-9eE]*|true|false)$)')
                or regexp_matches(event.session_id, '^([\[{]|(-?[0-9][-+.0-9eE]*|true|false)$)')
                or regexp_matches(event.path, '^([\[{]|(-?[0-9][-+.0-9eE]*|true|false)$)')
                or regexp_matches(event.referrer, '^([\[{]|(-?[0-9][-+.0-9eE]*|true|false)$)')
                or regexp_matches(event.title, '^([\[{]|(-?[0-9][-+.0-9eE]*|true|false)$)')
                then list_filter(
                    ['anonymous_id', 'session_id', 'path', 'referrer', 'title'],
                    lambda name: coalesce(json_type(text, '$.' || name), 'NULL') not in ('VARCHAR', 'NULL')
                )[1]
        end as no_text,
        case when regexp_full_match(event.duration_ms, '-?[0-9]+') then try_cast(event.duration_ms as bigint) end as duration_ms,
        -- DuckDB's parser lets trailing commas and NaN pass. Only what looks like it is read again, strings taken out.
        case
            when contains(text, ',}') or contains(text, ',]') or contains(text, ', ') or contains(text, chr(10)) or contains(text, chr(13)) or contains(text, chr(9))
                or contains(text, 'nan') or contains(text, 'inf')
                -- In capitals too, which few messages have: all in small letters would cost more than reading the JSON.
                or ((contains(text, 'N') or contains(text, 'A') or contains(text, 'I') or contains(text, 'F')) and regexp_matches(text, '(?i)nan|inf'))
                then case
                    when regexp_matches(
                        text, '[:\[,]\s*-?[nNiI][aAnN]|,\s*[\]}]'
                    )
                        then regexp_replace(text, '"([^"\\]|\\.)*"', '""', 'g')
                end
        end as without_strings
    from parsed
),

judged as materialized (
    select
        -- What the message was judged by is not carried along: that would cost as much as reading it.
        typed.* exclude (topic, kafka_timestamp, key, headers, value, received, text, no_text, without_strings),
        case
            when value is null then 'it has no value'
            when octet_length(value) > 1048576 then 'it is larger than 1 MiB'
            when text is null then 'it is not valid UTF-8'
            when event is null and not json_valid(text) then 'it is not valid JSON'
            when event is null or not (starts_with(text, '{') or starts_with(ltrim(text, E' \t\r\n'), '{')) then 'it is no JSON object'
            when event_id is null then 'event_id is missing or no UUID'
            when event_time is null then 'event_time is missing or no ISO 8601 time with an offset'
            when event_time < timestamptz '2000-01-01 00:00:00+00' then 'event_time is before the year 2000'
            when event_time > _landed_at + interval 5 minutes then 'event_time is more than 5 minutes after its arrival'
            when event.user_id is not null and user_id is null then 'user_id is no integer of 64 bits'
            when no_text is not null then no_text || ' is no text'
            when event.duration_ms is not null and duration_ms is null then 'duration_ms is no integer'
            when without_strings is null then null
            when regexp_matches(without_strings, '[:\[,]\s*-?[nNiI][aAnN]|,\s*[\]}]') then 'it is not valid JSON'
        end as dead_letter_reason
    from typed
),

-- Only keys that come twice are compared: a window over every row would cost twice as much. Copies further apart than the lookback are none, here
-- as where one is there already: else what stands would depend on what was read together. A record that was replayed is twice at its place: of
-- those copies the one that was landed first counts.
repeated as (
    select event_id
    from judged
    where dead_letter_reason is null
    group by event_id
    having count(*) > 1
),

copies as (
    select
        _batch_id,
        _seq,
        {'kafka_partition': kafka_partition, 'kafka_offset': kafka_offset, 'landed_at': _landed_at} as place,
        min(place) over (
            partition by event_id
            order by date_diff('day', date '2000-01-01', event_time::date) range between 8 preceding and 8 following
        ) as first_copy
    from judged
    semi join repeated using (event_id)
    where dead_letter_reason is null
)

select
    judged.event_id::uuid as event_id, -- Identifies the event; given by the producer
    judged.event_time::timestamptz as event_time, -- When it happened, by the producer's clock (UTC)
    judged.user_id::bigint as user_id, -- Signed-in user; null for a visitor
    judged.event.anonymous_id::varchar as anonymous_id, -- Browser or device, the same before and after signing in
    judged.event.session_id::varchar as session_id, -- Visit, as the producer counts them
    judged.event.path::varchar as path, -- Path of the page
    judged.event.referrer::varchar as referrer, -- Where the visitor came from; null when unknown
    judged.event.title::varchar as title, -- Title of the page
    judged.duration_ms::bigint as duration_ms, -- Milliseconds it was shown; null when not measured
    judged.kafka_partition::integer as kafka_partition, -- Partition of the topic it came from; of two copies the lower one stays
    judged.kafka_offset::bigint as kafka_offset, -- Offset in that partition; of two copies in one partition the lower one stays
    judged._batch_id::varchar as _batch_id, -- Landing that brought the message
    judged._seq::bigint as _seq, -- Row of that landing
    judged.dead_letter_reason::varchar as _dead_letter_reason -- Why the message can't be an event; null when it is one
from judged
anti join copies on judged._batch_id = copies._batch_id and judged._seq = copies._seq and copies.place <> copies.first_copy

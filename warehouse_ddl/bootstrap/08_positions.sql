-- What somebody has accepted as lost: a topic is never read on from another place without a row here.

create table if not exists ops.position_reset (
    sequence bigint generated always as identity primary key,
    reset_at timestamptz not null default clock_timestamp(),
    entity text not null,
    topic text not null,
    kafka_partition integer not null,
    reason text not null,
    topic_id_before text,
    topic_id text not null,
    offset_before bigint not null,
    lost_to bigint,
    next_offset bigint,
    in_lake jsonb not null
);
comment on table ops.position_reset is 'One row per partition of a topic that was set to be read on from another place (python -m flows positions TOPIC --yes).';
comment on column ops.position_reset.lost_to is 'Records from offset_before up to this offset were deleted unread; null where nobody knows how many there were.';
comment on column ops.position_reset.next_offset is 'Where it is read on; null where the broker has the partition no more.';
comment on column ops.position_reset.in_lake is 'Offsets [first, after) of the partition that the lake had then, before offset_before.';

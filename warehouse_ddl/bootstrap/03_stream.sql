-- What the stream keeps between two landings: how far it is, and the raw files that no landing names yet.

create table if not exists ops.stream_partition (
    entity text not null,
    kafka_partition integer not null,
    generation bigint not null,
    next_offset bigint not null,
    owner text not null,
    taken_at timestamptz not null default clock_timestamp(),
    primary key (entity, kafka_partition)
);
comment on table ops.stream_partition is 'Who reads a partition of a topic and how far they are; whoever holds an older generation can commit nothing.';

create table if not exists ops.stream_batch (
    sequence bigint generated always as identity primary key,
    batch_id text not null,
    entity text not null,
    topic_id text not null,
    offsets jsonb not null,
    windows jsonb not null,
    file jsonb not null,
    row_count bigint not null,
    committed_at timestamptz not null default clock_timestamp(),
    unique (batch_id, entity)
);
comment on table ops.stream_batch is 'One row per micro-batch and topic whose raw file no landing names yet; a landing takes its place within a minute.';

create table if not exists ops.hot_partition (
    table_name text not null,
    partition text not null,
    since timestamptz not null default clock_timestamp(),
    primary key (table_name, partition)
);
comment on table ops.hot_partition is 'Partitions into which the stream has written rows that the lake''s content need not hold yet.';

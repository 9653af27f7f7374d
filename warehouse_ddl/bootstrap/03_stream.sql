-- What the stream keeps between two landings: how far it is, and the raw files that no landing names yet.

create table if not exists ops.stream_partition (
    entity text not null,
    kafka_partition integer not null,
    generation bigint not null,
    next_offset bigint not null,
    owner text not null,
    taken_at timestamptz not null default clock_timestamp(),
    watermark timestamptz,
    moved_at timestamptz not null default clock_timestamp(),
    primary key (entity, kafka_partition)
);
alter table ops.stream_partition add column if not exists ended_at timestamptz;
comment on column ops.stream_partition.watermark is 'The latest event time that was taken in of it.';
comment on column ops.stream_partition.ended_at is 'When the broker was last asked, and had nothing that was not taken in.';
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
comment on table ops.stream_batch is 'One row per micro-batch and topic, or per run of small ones, whose raw file no landing names yet; a landing takes its place within ten minutes.';

create table if not exists ops.hot_partition (
    table_name text not null,
    partition text not null,
    since timestamptz default clock_timestamp(),
    sealed_at timestamptz,
    last_batch text,
    primary key (table_name, partition)
);
alter table ops.hot_partition alter column since drop not null;
alter table ops.hot_partition add column if not exists last_batch text;
alter table ops.hot_partition add column if not exists compared text;
comment on table ops.hot_partition is 'Partitions into which the stream has written; until one is sealed it may hold rows that the lake''s content does not hold yet.';
comment on column ops.hot_partition.since is 'When the stream began to write into it, since it was last sealed; null where only batches ever wrote: what they wrote last is kept for streams, and the partition is none of the stream''s.';
comment on column ops.hot_partition.last_batch is 'What wrote rows into it last, a micro-batch or what the batch published or corrected: a stream that knows another one asks what stands there before it adds a row.';
comment on column ops.hot_partition.compared is 'What the batch had built of it and what had written into it last when the two were found equal: while both are so it is compared again only before it is sealed, or when somebody asks.';

create table if not exists ops.comparison_owed (
    entity text not null,
    partition text not null,
    since timestamptz not null default clock_timestamp(),
    primary key (entity, partition)
);
comment on table ops.comparison_owed is 'Days of which a batch has read a topic''s records itself: windows count these once it has compared the day, and none of its windows becomes final before.';

create table if not exists ops.stream_window (
    table_name text primary key,
    watermark timestamptz not null
);
comment on table ops.stream_window is 'How far the event time of each windowed table has come; it never goes back.';

create table if not exists ops.outbox (
    sequence bigint generated always as identity primary key,
    topic text not null,
    key text not null,
    value text not null
);
comment on table ops.outbox is 'Messages that a committed transaction owes to a topic, in their order; gone once the topic has them.';

create table if not exists ops.stream_progress (
    owner text primary key,
    reported_at timestamptz not null,
    messages_per_second double precision not null,
    lag bigint not null,
    median_seconds double precision not null,
    worst_seconds double precision not null,
    messages bigint not null,
    row_count bigint not null,
    copies bigint not null,
    dead_letters bigint not null,
    open_windows bigint not null
);
alter table ops.stream_progress add column if not exists ended_at timestamptz;
comment on column ops.stream_progress.ended_at is 'When it ended because it was to: its time was over, somebody stopped it, or said that it is not to come back; of one that died, when another of its kind went on. Null for one that lives, and for one that died and that nobody has followed.';
comment on table ops.stream_progress is 'One row per stream process: what it said of itself last. Latency is from the broker''s timestamp to the commit; worst is the 99th percentile.';

create table if not exists ops.model_in_force (
    table_name text primary key,
    fingerprint text not null,
    since timestamptz not null default clock_timestamp()
);
comment on table ops.model_in_force is 'One row per table of a model: what the code of the latest run says its rows are made by. A stream of other code ends, so that it does not undo what that run builds.';

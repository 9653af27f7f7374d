-- What the pipeline knows about itself. The ledger is the point where anything becomes true:
-- files, positions and published rows count from the moment their row here is committed.

create table if not exists ops.ledger (
    token text primary key,
    sequence bigint generated always as identity,
    kind text not null check (kind in ('land', 'build', 'publish', 'compact')),
    layer text not null,
    table_name text not null,
    partition text not null default '',
    run_id text not null default '',
    positions jsonb not null default '{}',
    based_on jsonb not null default '{}',
    windows jsonb not null default '{}',
    control jsonb not null default '{}',
    files jsonb not null default '[]',
    removed jsonb not null default '[]',
    fingerprint text not null default '',
    manifest_hash text not null,
    row_count bigint not null default 0,
    landed_at timestamptz,
    committed_at timestamptz not null default clock_timestamp(),
    in_manifest boolean not null default false
);
create index if not exists idx_ledger_table on ops.ledger (table_name, sequence);
create index if not exists idx_ledger_not_in_manifest on ops.ledger (sequence) where not in_manifest;
comment on table ops.ledger is 'One row per commit: a landed batch, a built or published partition, a compaction. The token makes it happen once.';

create table if not exists ops.partition_state (
    table_name text not null,
    partition text not null,
    token text not null,
    version bigint not null,
    based_on jsonb not null default '{}',
    fingerprint text not null default '',
    files jsonb not null default '[]',
    row_count bigint not null default 0,
    published_at timestamptz,
    primary key (table_name, partition)
);
comment on table ops.partition_state is 'The current truth of every partition of every built table; changed by compare-and-swap on version.';

create table if not exists ops.position (
    entity text primary key,
    positions jsonb not null,
    token text not null,
    version bigint not null
);
comment on table ops.position is 'How far each source entity was landed; changed by compare-and-swap on version.';

create table if not exists ops.landed_window (
    table_name text not null,
    landed_window text not null,
    token text not null,
    sequence bigint not null,
    row_count bigint not null,
    primary key (table_name, landed_window)
);
comment on table ops.landed_window is 'Which landing touched a window of a raw table last: what planning compares, however long the history is.';

create table if not exists ops.dead_letter (
    letter_id text primary key,
    source text not null,
    entity text not null,
    topic text,
    kafka_partition integer,
    kafka_offset bigint,
    batch_id text,
    seq bigint,
    reason text not null,
    payload bytea,
    received_at timestamptz not null,
    status text not null default 'waiting' check (status in ('waiting', 'replayed', 'discarded')),
    replayed_at timestamptz,
    replayed_as text,
    replayed_sha256 text,
    forwarded_at timestamptz
);
do $$
begin
    -- Asked first: an alter that has nothing to add would wait for every reader of the table all the same.
    if not exists (
        select from pg_attribute where attrelid = 'ops.dead_letter'::regclass and attname = 'forwarded_at'
    ) then
        alter table ops.dead_letter add column replayed_at timestamptz, add column replayed_as text,
            add column replayed_sha256 text, add column forwarded_at timestamptz;
    end if;
end
$$;
create index if not exists idx_dead_letter_entity on ops.dead_letter (entity, status);
create index if not exists idx_dead_letter_forward on ops.dead_letter (received_at) where forwarded_at is null;
comment on table ops.dead_letter is 'One row per record that could not be read: where from, why, and its bytes.';

create table if not exists ops.schema_change (
    change_id text primary key,
    table_name text not null,
    column_name text not null,
    change text not null,
    before text[] not null,
    after text[] not null,
    contract text not null check (contract in ('evolve', 'freeze', 'quarantine')),
    topic text,
    kafka_offset bigint,
    found_at timestamptz not null
);
do $$
begin
    if not exists (
        select from pg_attribute where attrelid = 'ops.schema_change'::regclass and attname = 'change_id'
    ) then
        alter table ops.schema_change add column change_id text, drop constraint schema_change_pkey,
            drop constraint schema_change_change_check, alter column topic drop not null,
            alter column kafka_offset drop not null;
        update ops.schema_change
        set change_id = md5(concat_ws(' ', table_name, column_name, change, topic, kafka_offset));
        alter table ops.schema_change add primary key (change_id);
    end if;
end
$$;
create index if not exists idx_schema_change_table on ops.schema_change (table_name, found_at desc);
comment on table ops.schema_change is 'One row per column that a source has otherwise than declared or last seen, by its catalog or by a topic''s records from an offset on: what it was, what it is, and the contract that the declaration holds it to.';

create table if not exists ops.incomplete_transaction (
    prefix text not null,
    transaction bigint not null,
    letter_id text not null default '',
    reason text not null,
    found_at timestamptz not null,
    primary key (prefix, transaction, letter_id)
);
comment on table ops.incomplete_transaction is 'Transactions of the application that did not arrive whole, each with the dead letter it lacks if that is why.';
-- Change capture without Kafka: how far the application's database was read, and the topics of its changes.
create table if not exists ops.change_capture (
    connector text primary key,
    configuration jsonb not null,
    state text not null default 'running' check (state in ('running', 'paused', 'stopped')),
    position jsonb,
    seen jsonb not null default '{}',
    read_at timestamptz
);
comment on table ops.change_capture is 'Change capture without Kafka: one row per connector, with where Debezium goes on (null until every table was read once) and what was known of the source before it was read last.';

create table if not exists ops.change_topic (
    topic text primary key,
    topic_id uuid not null default gen_random_uuid(),
    next_offset bigint not null
);
comment on table ops.change_topic is 'Change capture without Kafka: one row per change topic that the warehouse keeps.';

create table if not exists ops.change_record (
    topic text not null,
    kafka_offset bigint not null,
    received_at timestamptz not null,
    key bytea,
    headers bytea not null,
    value bytea,
    primary key (topic, kafka_offset)
);
comment on table ops.change_record is 'Change capture without Kafka: Debezium''s records until they are landed; headers are JSON.';

create table if not exists ops.check_result (
    run_id text not null,
    table_name text not null,
    partition text not null default '',
    rule text not null,
    kind text not null check (kind in ('completeness', 'accuracy', 'consistency', 'timeliness', 'uniqueness')),
    severity text not null check (severity in ('critical', 'warning', 'info')),
    engine text not null check (engine in ('duckdb', 'great_expectations', 'postgresql')),
    passed boolean not null,
    failing_rows bigint not null default 0,
    observed jsonb not null default '{}',
    checked_at timestamptz not null
);
do $$
begin
    if not exists (
        select from pg_constraint
        where conrelid = 'ops.check_result'::regclass and conname = 'check_result_engine_check'
            and pg_get_constraintdef(oid) like '%postgresql%'
    ) then
        alter table ops.check_result drop constraint check_result_engine_check;
        -- Of all other results observed.rows is how many were checked.
        update ops.check_result
        set engine = 'postgresql',
            observed = observed - 'rows' || jsonb_strip_nulls(jsonb_build_object('named', observed -> 'rows'))
        where rule = 'stream_agrees';
        alter table ops.check_result add constraint check_result_engine_check
            check (engine in ('duckdb', 'great_expectations', 'postgresql'));
    end if;
end
$$;
create index if not exists idx_check_result_table on ops.check_result (table_name, checked_at desc);
create index if not exists idx_check_result_time on ops.check_result (checked_at);
comment on table ops.check_result is 'One row per rule, partition and run.';

create table if not exists ops.run (
    run_id text primary key,
    flow text not null,
    started_at timestamptz not null,
    finished_at timestamptz,
    state text not null,
    summary jsonb not null default '{}'
);
comment on table ops.run is 'One row per run of a flow.';

create table if not exists ops.refresh_owed (
    view_name text not null,
    token text not null,
    owed_at timestamptz not null default clock_timestamp(),
    primary key (view_name, token)
);
comment on table ops.refresh_owed is 'Refreshes of materialized views that a publish owes; written in its transaction, removed by the refresh.';

create table if not exists ops.view_definition (
    view_name text primary key,
    fingerprint text not null
);
comment on table ops.view_definition is 'What each materialized view was made from: one whose file says something else is made anew.';

create table if not exists ops.pending_publish (
    table_name text not null,
    partition text not null,
    token text not null,
    blocked_by text not null,
    since timestamptz not null default clock_timestamp(),
    primary key (table_name, partition)
);
comment on table ops.pending_publish is 'Publishes that somebody''s lock keeps from being seen, and whose lock it is; the next run completes them.';

create table if not exists ops.control_total (
    entity text not null,
    day date not null,
    group_value text not null default '',
    row_count bigint not null,
    amount numeric not null,
    primary key (entity, day, group_value)
);
comment on table ops.control_total is 'What the source itself counts and sums, read in the same snapshot as the rows that were landed last.';

-- Backups that were taken and drills of the way back: what the monitor and the portal show of them.

create table if not exists ops.backup (
    backup_id text primary key,
    folder text not null,
    ledger_sequence bigint not null,
    row_count bigint not null,
    bytes bigint not null,
    raw_bytes bigint not null,
    is_sealed boolean not null,
    seconds double precision not null,
    taken_at timestamptz not null
);
create index if not exists idx_backup_time on ops.backup (taken_at desc);
comment on table ops.backup is 'One row per backup that was completed, also of those that have expired since: how far the ledger was, rows and bytes of the dump, bytes of raw that were new to the folder. taken_at: the moment of its snapshot.';

create table if not exists ops.physical_backup (
    backup_id text not null,
    folder text not null,
    based_on text,
    bytes bigint not null,
    is_sealed boolean not null,
    seconds double precision not null,
    taken_at timestamptz not null,
    primary key (backup_id, folder)
);
comment on table ops.physical_backup is 'One row per copy of the server that was completed, entered after it: a server that came from a copy knows neither that one nor any later. based_on: the copy that it is an increment on; null for a full one.';

create table if not exists ops.drill (
    drill_id text primary key,
    backup_id text not null,
    is_equal boolean not null,
    rto_seconds double precision,
    rpo_seconds double precision,
    seconds double precision not null,
    compared integer not null,
    replayed integer not null,
    differences jsonb not null default '[]',
    started_at timestamptz not null
);
create index if not exists idx_drill_time on ops.drill (started_at desc);
comment on table ops.drill is 'One row per rehearsal of a restore, from its beginning on: one that is not equal and names no difference is under way or was killed. rto_seconds: from nothing to the content that is live, restored and replayed; null where it did not come that far. rpo_seconds: the age of the backup, which is what would be lost if the lake were lost too. compared: tables and leaves; replayed: partitions that were loaded from the lake; differences: one sentence each.';

create table if not exists ops.identity (
    is_only boolean primary key default true check (is_only),
    warehouse uuid not null default gen_random_uuid()
);
insert into ops.identity default values on conflict do nothing;
comment on table ops.identity is 'One row: which warehouse this is. Its lake and its backups say the same, so that those of another one in the same folder are told from them; a restore keeps it.';

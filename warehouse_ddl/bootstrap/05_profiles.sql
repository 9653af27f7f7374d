-- What the content of published tables looks like by day: what monitors compare, so that nobody scans a table for it.

create table if not exists ops.partition_profile (
    table_name text not null,
    partition text not null,
    day date not null,
    token text not null,
    profiled_at timestamptz not null,
    row_count bigint not null,
    hours jsonb not null default '{}',
    columns jsonb not null default '{}',
    columns_at timestamptz not null,
    primary key (table_name, partition, day)
);
create index if not exists idx_partition_profile_day on ops.partition_profile (day);
comment on table ops.partition_profile is 'One row per published table, partition and UTC day of the column it is partitioned by (without one: the day it was looked at; of a history the versions that held then): rows, rows by hour, and by column the nulls and the distribution. token: the content it describes.';
comment on column ops.partition_profile.columns_at is 'When the columns were looked at. Rows that change later (orders get paid) are compared as they were when their day was over: such a day keeps its first look.';

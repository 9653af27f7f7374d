-- What these files said when they were last run: who may not run them compares.

create table if not exists ops.bootstrap (
    is_only boolean primary key default true check (is_only),
    fingerprint text not null,
    run_at timestamptz not null default clock_timestamp()
);
comment on table ops.bootstrap is 'One row: what schemas, roles and ops tables were made from.';
